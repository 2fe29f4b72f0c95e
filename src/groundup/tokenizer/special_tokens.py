"""Special tokens as a user gives them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from groundup.errors import TokenizerError
from groundup.tokenizer.core import load_core

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from groundup.tokenizer import _native

AllowedSpecial = Literal["all", "none"] | Collection[str]
"""All special tokens, none of them, or some by name."""


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
    """The special tokens of a tokenizer, and those of them that a call may want, ready to be found in text."""

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
            TokenizerError: one of the texts has a disallowed one, or what is named is no special token.
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
            if len(self._sets) >= _MOST_SETS:  # who chooses others with every call must not fill the memory
                self._sets.clear()
            made = self._sets[names] = self._made(names)
        return made

    def _made(self, names: frozenset[bytes], *, always: bool = True) -> "_native.SpecialTokens":
        tokens = [(name, self._ids[name]) for name in names]
        made: _native.SpecialTokens = load_core().SpecialTokens(tokens + self._always if always else tokens)
        return made
