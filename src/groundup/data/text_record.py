"""Record of the text that was read: documents, bytes and SHA-256 of each input, and the special tokens met.

All of it is taken in the same pass as the text is encoded, in another thread: hashing lets go of the GIL.
"""

import hashlib
import sys
from array import array
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from groundup.tokenizer.special_names import SpecialNames

_DOCUMENTS_JOINED = 1024  # few enough to be hashed out of the processor's cache

Sources: TypeAlias = list[dict[str, Any]]
"""Of each input read so far: its place among the inputs, documents, text_bytes and text_sha256."""


class TextRecord:
    """Counts and hashes the documents of each input, in the order they are read.

        record = TextRecord(reader.files, names)
        record.hold(documents, marks); record.flush()           # whole documents
        record.add_part(path, data, ends_document=False)        # part of a document
        record.sources(count)                                   # of the first `count` documents of all
        record.met()                                            # of all

    The SHA-256 of an input is that of two digests: of its documents, each followed by a NUL, and of their lengths as
    uint64. So it depends on the text and on where the documents end, and on nothing else. Empty documents are dropped
    before.
    """

    def __init__(self, files: Sequence[Path], names: SpecialNames):
        self._places = {path: place for place, path in reversed(list(enumerate(files)))}
        self._names = names
        self._sources: dict[Path, _Source] = {}
        self._held: list[tuple[Path, list[bytes]]] = []
        self._hashed = 0
        self._met: Counter[str] = Counter()
        self._in_parts = b""  # the end of a document in parts, in which a name may begin
        self._length = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="text-record")
        self._work: Future[None] | None = None

    def hold(self, documents: list[bytes], marks: list[tuple[int, Path]]) -> None:
        """Take whole documents, and hold them until the next `flush`.

        Args:
            marks: where in them those of another input begin; the first at 0.
        """
        ends = [begin for begin, _ in marks[1:]] + [len(documents)]
        self._held = [
            (path, documents[begin:end]) for (begin, path), end in zip(marks, ends, strict=True) if begin < end
        ]

    def flush(self) -> None:
        """Hash what is held, in the other thread."""
        self._hashed += sum(len(documents) for _, documents in self._held)
        self._submit(self._take, self._held)
        self._held = []

    def add_part(self, path: Path, data: bytes, *, ends_document: bool) -> None:
        """Take a part of a document."""
        self._submit(self._take_part, path, data, ends_document)
        self._hashed += ends_document

    def sources(self, documents: int | None = None) -> Sources:
        """The inputs up to that many documents of all, at least those flushed; or all flushed."""
        if documents is not None:
            assert documents >= self._hashed, f"{documents} of {self._hashed} documents that are hashed already"
            self._submit(self._take, self._cut(documents - self._hashed))
            self._hashed = documents
        self._wait()
        return [source.entry(self._places[path]) for path, source in self._sources.items() if source.documents]

    def met(self) -> dict[str, int]:
        """How often each special token's name was in the documents taken; names that were not are left out."""
        self._wait()
        return dict(sorted(self._met.items()))

    def close(self) -> None:
        """End the thread, after what it is at."""
        self._thread.shutdown()

    def _cut(self, count: int) -> list[tuple[Path, list[bytes]]]:
        """Take the first documents from those that are held."""
        taken: list[tuple[Path, list[bytes]]] = []
        while count:
            path, documents = self._held[0]
            taken.append((path, list(islice(documents, count))))
            count -= len(taken[-1][1])
            del documents[: len(taken[-1][1])]
            if not documents:
                del self._held[0]
        return taken

    def _submit(self, function: Any, *arguments: Any) -> None:
        self._wait()
        self._work = self._thread.submit(function, *arguments)

    def _wait(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.result()

    # What follows runs in the other thread.

    def _source(self, path: Path) -> "_Source":
        return self._sources.setdefault(path, _Source())

    def _take(self, batches: list[tuple[Path, list[bytes]]]) -> None:
        for path, documents in batches:
            source = self._source(path)
            for begin in range(0, len(documents), _DOCUMENTS_JOINED):
                some = documents[begin : begin + _DOCUMENTS_JOINED]
                joined = b"\0".join([*some, b""])
                source.text.update(joined)
                source.lengths.update(_little_endian(array("Q", map(len, some))))
                source.documents += len(some)
                source.text_bytes += len(joined) - len(some)
                self._met += self._names.count(some, joined)

    def _take_part(self, path: Path, data: bytes, ends_document: bool) -> None:
        source = self._source(path)
        if not self._length:
            source.begin_parts()
        source.text.update(data)
        source.text_bytes += len(data)
        self._length += len(data)
        found, self._in_parts = self._names.count_part(self._in_parts + data, ends_document)
        self._met += found
        if ends_document:
            source.text.update(b"\0")
            source.lengths.update(_little_endian(array("Q", [self._length])))
            source.documents += 1
            self._length = 0
            source.end_parts()


def _little_endian(values: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        values.byteswap()
    return values


class _Source:
    """What was read of one input."""

    def __init__(self) -> None:
        self.documents = self.text_bytes = 0
        self.text, self.lengths = hashlib.sha256(), hashlib.sha256()
        self._before_parts: tuple[bytes, int] | None = None

    def begin_parts(self) -> None:
        """Keep what there was before a document in parts: until its end, it counts for nothing."""
        self._before_parts = self.text.digest(), self.text_bytes

    def end_parts(self) -> None:
        self._before_parts = None

    def entry(self, place: int) -> dict[str, Any]:
        text, text_bytes = self._before_parts or (self.text.digest(), self.text_bytes)
        digest = hashlib.sha256(text + self.lengths.digest())
        return {
            "input": place,
            "documents": self.documents,
            "text_bytes": text_bytes,
            "text_sha256": digest.hexdigest(),
        }


EMPTY_SHA256 = _Source().entry(0)["text_sha256"]
"""Of an input without any text."""
