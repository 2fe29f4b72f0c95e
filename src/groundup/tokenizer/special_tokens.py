"""Special tokens: checked, chosen for a call, and their names found in documents."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from groundup.errors import DataError, TokenizerError
from groundup.text.readers import TextReader
from groundup.tokenizer.arguments import as_bytes
from groundup.tokenizer.encoders import load_core
from groundup.tokenizer.training.texts import Text

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from groundup.tokenizer import _native

AllowedSpecial = Literal["all", "none"] | Collection[str]
"""All special tokens, none of them, or some by name."""
SpecialTokenMode = Literal["text", "encode", "error"]
"""Meaning of a special token's name inside a document: ordinary text; the special token; or an error."""


def checked_special_tokens(special_tokens: Iterable[str] | None) -> list[bytes]:
    """The UTF-8 bytes of each special token, in the order given; none for None.

    Raises:
        TokenizerError: one of them is empty, given twice, not a str, or has no UTF-8 form; or a lone str was given.
    """
    if isinstance(special_tokens, str):
        raise TokenizerError(f"special_tokens is the string {special_tokens!r}; give a list: [{special_tokens!r}]")
    if special_tokens is not None and not isinstance(special_tokens, Iterable):
        raise TokenizerError(f"special_tokens is {special_tokens!r}; give a list of str")
    encoded: dict[bytes, None] = {}
    for token in special_tokens or ():
        if not isinstance(token, str):
            raise TokenizerError(f"special token {token!r} is of type {type(token).__name__}; special tokens are str")
        if not token:
            raise TokenizerError("a special token is the empty string '', which would match everywhere; remove it")
        try:
            name = token.encode()
        except UnicodeEncodeError:
            raise TokenizerError(
                f"special token {token!r} has a lone surrogate, which is not text; remove it"
            ) from None
        if name in encoded:
            raise TokenizerError(f"special token {token!r} is given twice; give it once")
        encoded[name] = None
    return list(encoded)


_MOST_SETS = 64


class SpecialTokenSets:
    """Finders of a tokenizer's special tokens, and of the subsets that calls ask for."""

    def __init__(self, ids: Mapping[bytes, int], always: Mapping[bytes, int]) -> None:
        """`always`: tokens that are found beside the special ones, whichever a call wants."""
        self._ids = ids
        self._always = list(always.items())
        self._names = frozenset(ids)
        self._sets: dict[frozenset[bytes], _native.SpecialTokens] = {}
        self.all = self._made(self._names)
        self.none = self._made(frozenset())

    def chosen(
        self, texts: "Sequence[str | Buffer]", allowed: AllowedSpecial, disallowed: AllowedSpecial
    ) -> "_native.SpecialTokens":
        """The allowed ones.

        Raises:
            TokenizerError: one of the texts has a disallowed one, or a name is not that of a special token.
        """
        if not disallowed and isinstance(allowed, str) and allowed == "all":
            return self.all
        may = self._named(allowed, "allowed_special")
        by_name = self._named(disallowed, "disallowed_special")
        must_not = self._names - may if isinstance(disallowed, str) and disallowed == "all" else by_name
        if must_not:
            self._refuse(must_not, texts)
        return self._set(may)

    def _refuse(self, must_not: frozenset[bytes], texts: "Sequence[str | Buffer]") -> None:
        found = self._made(must_not, always=False) if self._always else self._set(must_not)
        for number, text in enumerate(texts):
            if (place := found.find(text)) is not None:
                name = next(name for name in must_not if self._ids[name] == place[2])
                which = "the text" if len(texts) == 1 else f"text {number} of {len(texts)}"
                raise TokenizerError(
                    f"{which} has the special token {name.decode()!r} at byte {place[0]}, which is disallowed; "
                    "remove it, or allow it in allowed_special, or leave it out of disallowed_special to encode it "
                    "as text"
                )

    def _named(self, names: AllowedSpecial, argument: str) -> frozenset[bytes]:
        if isinstance(names, str):
            if names == "all":
                return self._names
            if names == "none":
                return frozenset()
            raise TokenizerError(f'{argument} is {names!r}; expected "all", "none" or a collection: [{names!r}]')
        if not isinstance(names, Iterable) or isinstance(names, bytes):
            raise TokenizerError(f'{argument} is {names!r}; expected "all", "none" or a collection of str')
        listed = list(names)
        for name in listed:
            if not isinstance(name, str):
                raise TokenizerError(f"{argument} has {name!r} of type {type(name).__name__}; special tokens are str")
        encoded = frozenset(name.encode("utf-8", "replace") for name in listed)
        if unknown := encoded - self._names:
            known = ", ".join(repr(name.decode()) for name in self._ids) or "none"
            raise TokenizerError(
                f"{argument}: {min(unknown).decode()!r} is not a special token; this tokenizer has: {known}"
            )
        return encoded

    def _set(self, names: frozenset[bytes]) -> "_native.SpecialTokens":
        if names == self._names:
            return self.all
        made = self._sets.get(names)
        if made is None:
            if len(self._sets) >= _MOST_SETS:  # a caller that chooses others with every call must not fill the memory
                self._sets.clear()
            made = self._sets[names] = self._made(names)
        return made

    def _made(self, names: frozenset[bytes], *, always: bool = True) -> "_native.SpecialTokens":
        tokens = [(name, self._ids[name]) for name in names]
        made: _native.SpecialTokens = load_core().SpecialTokens(tokens + self._always if always else tokens)
        return made


class SpecialNames:
    """Finder of the names of special tokens in bytes: the leftmost first, of those the longest.

    Args:
        names: the special tokens.
    """

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        encoded = [name.encode() for name in self.names]
        self._finder = load_core().SpecialTokens([(name, number) for number, name in enumerate(encoded)])
        self._longest = max(map(len, encoded), default=0)
        self._has_nul = any(b"\0" in name for name in encoded)

    def count(self, documents: Sequence[bytes], joined: bytes) -> Counter[str]:
        """Number of occurrences of each name in the documents.

        Args:
            joined: the documents with a NUL after each, which is searched in one go.
        """
        texts = documents if self._has_nul else [joined]
        found: Counter[str] = Counter()
        for text in texts:
            found += self.count_part(text, True)[0]
        return found

    def count_part(self, data: bytes, is_last: bool) -> tuple[Counter[str], bytes]:
        """Number of occurrences of each name in a part of a document, and the part's end, to prepend to the next."""
        found: Counter[str] = Counter()
        begin, decided = 0, len(data) if is_last else len(data) - self._longest + 1
        while (place := self._finder.find(data, begin)) and place[0] < decided:
            found[self.names[place[2]]] += 1
            begin = place[1]
        return found, b"" if is_last else data[max(begin, decided, 0) :]

    def first(self, data: bytes, is_last: bool = True) -> tuple[str | None, bytes]:
        """The first name in a document, or in a part of one, if there is any; and the end of the part."""
        place = self._finder.find(data)
        if place:
            return self.names[place[2]], b""
        return None, b"" if is_last else data[max(len(data) - self._longest + 1, 0) :]

    def are_in(self, text: Text) -> bool:
        """Whether any of them is in a text."""
        return self._finder.find(text) is not None


def set_aside(
    batches: Iterable[Sequence[Text]], names: SpecialNames, met: Counter[str], take: Callable[[list[bytes]], object]
) -> Iterator[Sequence[Text]]:
    """The texts without any of the names; `take` gets the others as bytes, batch by batch, and `met` the names."""
    for batch in batches:
        named, others = list[bytes](), list[Text]()
        for text in batch:
            if names.are_in(text):
                named.append(as_bytes(text))
                met.update(names.count_part(named[-1], True)[0])
            else:
                others.append(text)
        if named:
            take(named)
        yield others


def refuse_names(reader: TextReader, special_tokens: Sequence[str]) -> Iterator[bytes]:
    """The documents of a reader, which must have no name of a special token in them.

    Raises:
        DataError: one has.
    """
    refused, reading, number = RefusedNames(special_tokens), None, 0
    with closing(reader.documents()) as documents:
        for document in documents:
            if reader.current is not reading:
                reading, number = reader.current, 0
            number += 1
            refused.check_part(reading, number, document, True)
            yield document


class RefusedNames:
    """Check that documents contain no name of a special token."""

    def __init__(self, special_tokens: Sequence[str]):
        self._names = SpecialNames(special_tokens)
        self._tail = b""

    def check_part(self, path: Path | None, number: int, data: bytes, is_last: bool) -> None:
        """Raise DataError if a name is in a document, or in a part of one that follows what was checked before."""
        name, self._tail = self._names.first(self._tail + data, is_last)
        if name is not None:
            raise DataError(
                f"{path}, document {number} has the special token {name!r} in its text; remove it, or take it as text, "
                "which is the default, or as the token (encode)"
            )
