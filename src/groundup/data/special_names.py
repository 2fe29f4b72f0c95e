"""Names of special tokens inside documents: found and counted."""

from collections import Counter
from collections.abc import Sequence

from groundup.tokenizer.core import load_core


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
