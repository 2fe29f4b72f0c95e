"""Names of special tokens inside documents: found and counted."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

from groundup.errors import DataError
from groundup.text.encodings import utf8
from groundup.text.readers import TextReader
from groundup.tokenizer.core import load_core
from groundup.tokenizer.training.texts import Text

SpecialTokenMode = Literal["text", "encode", "error"]
"""Meaning of a special token's name inside a document: text like any; the special token; or an error."""


class SpecialNames:
    """The names of a tokenizer's special tokens, ready to be found in bytes: the leftmost first, of those the longest.

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
        """How often each name is in the documents.

        Args:
            joined: the documents with a NUL after each, which is searched in one go.
        """
        texts = documents if self._has_nul else [joined]
        found: Counter[str] = Counter()
        for text in texts:
            found += self.count_part(text, True)[0]
        return found

    def count_part(self, data: bytes, is_last: bool) -> tuple[Counter[str], bytes]:
        """How often each name is in a part of a document, and the end of the part, to put before the next one."""
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
                named.append(utf8(text) if isinstance(text, str) else bytes(text))
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
    """Finds names of special tokens in documents that must have none."""

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
