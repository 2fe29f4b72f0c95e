"""One pass over the documents of the inputs, which records all of them and encodes the requested ones.

The record (documents, bytes and SHA-256 of each input, and the special tokens in them) is made in another thread,
because hashing releases the GIL.
"""

import hashlib
import sys
from array import array
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from numpy.typing import NDArray

from groundup.data.chat import ChatEncoding
from groundup.data.plan import InputStatus, ShardPlan
from groundup.display.progress import Update
from groundup.text.batches import DOCUMENT_OVERHEAD
from groundup.text.readers import Piece, TextReader
from groundup.tokenizer.special_tokens import RefusedNames, SpecialNames
from groundup.tokenizer.tokenizer import Tokenizer

BATCH_BYTES = 4 << 20
"""Bytes of text that are encoded at a time. A longer document is encoded in parts and never held whole."""
_REPORT_BYTES = 1 << 20
_DOCUMENTS_JOINED = 1024  # few enough that the joined bytes are hashed from the processor's cache

Sources: TypeAlias = list[dict[str, Any]]
"""Records of the inputs read so far: index of the input, documents, text_bytes and text_sha256."""


class TextRecord:
    """Counts and hashes of the documents of each input, in reading order.

        record = TextRecord(reader.files, names)
        record.hold(documents, marks); record.flush()           # whole documents
        record.add_part(path, data, ends_document=False)        # part of a document
        record.sources(count)                                   # for the first `count` documents
        record.met()                                            # for all documents

    The SHA-256 of an input is that of two digests: one of its documents, each followed by a NUL, and one of their
    lengths as uint64. So it depends only on the text and on the document boundaries. Empty documents do not count.
    """

    def __init__(self, files: Sequence[Path], names: SpecialNames):
        self._places = {path: place for place, path in reversed(list(enumerate(files)))}
        self._names = names
        self._sources: dict[Path, _Source] = {}
        self._held: list[tuple[Path, list[bytes]]] = []
        self._hashed = 0
        self._met: Counter[str] = Counter()
        self._in_parts = b""  # end of the last part, in which a special token's name may begin
        self._length = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="text-record")
        self._work: Future[None] | None = None

    def hold(self, documents: list[bytes], marks: list[tuple[int, Path]]) -> None:
        """Hold whole documents until the next `flush`.

        Args:
            marks: (index of the first document, path) of each input among them; the first index is 0.
        """
        ends = [begin for begin, _ in marks[1:]] + [len(documents)]
        self._held = [
            (path, documents[begin:end]) for (begin, path), end in zip(marks, ends, strict=True) if begin < end
        ]

    def flush(self) -> None:
        """Hash the held documents, in the other thread."""
        self._hashed += sum(len(documents) for _, documents in self._held)
        self._submit(self._take, self._held)
        self._held = []

    def add_part(self, path: Path, data: bytes, *, ends_document: bool) -> None:
        """Hash a part of a document, in the other thread."""
        self._submit(self._take_part, path, data, ends_document)
        self._hashed += ends_document

    def sources(self, documents: int | None = None) -> Sources:
        """Records of the inputs, for the first ``documents`` documents or for all flushed ones.

        Args:
            documents: at least the number of flushed documents.
        """
        if documents is not None:
            assert documents >= self._hashed, f"{documents} documents, but {self._hashed} are hashed already"
            self._submit(self._take, self._cut(documents - self._hashed))
            self._hashed = documents
        self._wait()
        return [source.entry(self._places[path]) for path, source in self._sources.items() if source.documents]

    def met(self) -> dict[str, int]:
        """Number of occurrences of each special token's name that is in the documents so far."""
        self._wait()
        return dict(sorted(self._met.items()))

    def close(self) -> None:
        """Finish the current work and end the thread."""
        self._thread.shutdown()

    def _cut(self, count: int) -> list[tuple[Path, list[bytes]]]:
        """Remove and return the first held documents."""
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

    # The methods below run in the other thread.

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
    """Record of one input."""

    def __init__(self) -> None:
        self.documents = self.text_bytes = 0
        self.text, self.lengths = hashlib.sha256(), hashlib.sha256()
        self._before_parts: tuple[bytes, int] | None = None

    def begin_parts(self) -> None:
        """Store the state before a document in parts, which does not count until it is complete."""
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
"""Hash of an input without text."""


class DocumentSink(Protocol):
    """Consumer of the ids of documents."""

    @property
    def tokens(self) -> int:
        """Number of tokens so far."""

    def wants(self, number: int, /) -> bool:
        """Whether to encode the document with this number; numbers begin at 0 and skip empty documents."""

    def add_documents(self, ids: NDArray[Any], ends: NDArray[Any], counts: NDArray[Any] | None = None, /) -> None:
        """Take whole documents, concatenated in ``ids``, each with its separator.

        ``counts`` has 1 for ids that count for the loss; None if all do.
        """

    def add(self, ids: NDArray[Any], /) -> None:
        """Take ids of a document that comes in parts."""

    def end_document(self) -> None:
        """Close a document in parts with the separator."""


class DocumentPass:
    """One pass over all inputs.

    Args:
        reader: the documents.
        status: status of the files before the pass.
        record: hashes and counts the documents.
        chat: encodes documents that are conversations.
        progress: called about once a MiB of input, and at the end.

    Attributes:
        documents, empty_documents: numbers so far.
    """

    def __init__(
        self,
        reader: TextReader,
        tokenizer: Tokenizer,
        plan: ShardPlan,
        status: InputStatus,
        record: TextRecord,
        *,
        chat: ChatEncoding | None = None,
        num_threads: int | None = None,
        progress: Update | None = None,
    ):
        self._chat = chat
        self.documents = self.empty_documents = 0
        self._reader, self._tokenizer, self._plan, self._status, self._record = reader, tokenizer, plan, status, record
        self._threads, self._progress, self._total = num_threads, progress, reader.bytes_total
        self._allowed: Literal["all", "none"] = "all" if plan.special_tokens == "encode" else "none"
        refuses = plan.special_tokens == "error" and chat is None  # a conversation's reader looks for itself
        self._refused = RefusedNames(tokenizer.special_tokens) if refuses else None
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._marks: list[tuple[int, Path]] = []

    def run(self, sink: DocumentSink | None = None) -> None:
        """Read to the end; without a sink nothing is encoded.

        Raises:
            DataError: a file changed while it was read, or a document contains the name of a special token that is not
                allowed; or from the reader or the sink.
        """
        with closing(self._pieces(sink)) as pieces:
            self._take(pieces, sink)
        if self._progress:
            self._show(self._progress, sink)

    def _take(self, pieces: Iterator[Piece], sink: DocumentSink | None) -> None:
        is_wanted = False
        for data, ends_document in pieces:
            if ends_document and not data:
                self.empty_documents += 1
                continue
            if sink is not None and sink.wants(self.documents) != is_wanted:
                self._write_batch(sink if is_wanted else None)
                is_wanted = not is_wanted
            self.documents += 1
            if not ends_document:
                self._write_batch(sink if is_wanted else None)
                self._take_long(data, pieces, sink if is_wanted else None)
                continue
            if self._refused:
                self._refused.check_part(self._path, self._number(), data, True)
            self._batch.append(data)
            self._batch_bytes += len(data) + DOCUMENT_OVERHEAD
            if self._batch_bytes >= BATCH_BYTES:
                self._write_batch(sink if is_wanted else None)
        self._write_batch(sink if is_wanted else None)

    def _take_long(self, data: bytes, pieces: Iterator[Piece], sink: DocumentSink | None) -> None:
        """Take a document in pieces; it is never held whole."""
        path, number = self._path, self._number()
        stream = self._tokenizer.stream(allowed_special=self._allowed) if sink else None
        ends_document = False
        while True:
            if self._refused:
                self._refused.check_part(path, number, data, ends_document)
            if stream and sink:
                sink.add(stream.feed(data))
            if ends_document:
                break
            self._record.add_part(path, data, ends_document=False)
            data, ends_document = next(pieces)
        if stream and sink:
            sink.add(stream.finish())
            sink.end_document()
        # Last: the record may be ahead of the sink only by whole documents that it holds.
        self._record.add_part(path, data, ends_document=True)

    def _write_batch(self, sink: DocumentSink | None) -> None:
        if not self._batch:
            return
        self._record.hold(self._batch, self._marks)
        if sink and self._chat:
            sink.add_documents(*self._chat.encode(self._batch, self._plan.separator_id, self._threads))
        elif sink:
            ids, ends = self._tokenizer.encode_batch_to_numpy(
                self._batch,
                allowed_special=self._allowed,
                append=self._plan.separator_id,
                num_threads=self._threads,
            )
            sink.add_documents(ids, ends)
        self._record.flush()
        self._batch, self._batch_bytes, self._marks = [], 0, [(0, self._path)]

    def _show(self, progress: Update, sink: DocumentSink | None) -> None:
        tokens = sink.tokens if sink else 0
        progress("encoding", self._reader.bytes_read, self._total, f"{tokens:,} tokens")

    def _number(self) -> int:
        """Number of the current document in its file, from 1, with the empty ones."""
        return self.documents + self.empty_documents - self._before

    def _pieces(self, sink: DocumentSink | None) -> Generator[Piece, None, None]:
        """The pieces of the reader, with progress reports; each file is checked for changes after its last piece."""
        reported, reading = 0, None
        with closing(iter(self._reader)) as pieces:
            for piece in pieces:
                if self._reader.current is not reading:
                    if reading is not None:
                        self._status.check_unchanged(reading)
                    reading = self._reader.current
                    assert reading is not None
                    self._path, self._before = reading, self.documents + self.empty_documents
                    self._marks = [*(self._marks if self._batch else ()), (len(self._batch), reading)]
                yield piece
                if self._progress and self._reader.bytes_read - reported >= _REPORT_BYTES:
                    reported = self._reader.bytes_read
                    self._show(self._progress, sink)
        if reading is not None:
            self._status.check_unchanged(reading)
