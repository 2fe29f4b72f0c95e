"""One pass over the documents of the inputs: record them, and encode those that are wanted."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from numpy.typing import NDArray

from groundup.data.plan import InputStatus, ShardPlan
from groundup.data.text_record import TextRecord
from groundup.text.readers import Piece, TextReader
from groundup.tokenizer.special_names import RefusedNames

Progress: TypeAlias = Callable[[int, int | None, int], object]
"""Called with bytes read of the inputs, their size (None for standard input), and tokens written."""

BATCH_BYTES = 4 << 20
"""How much text is encoded at a time, unless a single document is longer: that one is never held whole."""
_REPORT_BYTES = 1 << 20
_DOCUMENT_OVERHEAD = 64  # bytes that even a short document takes, so that a batch of those is bounded too


class TokenStream(Protocol):
    """Encodes one document that comes in pieces."""

    def feed(self, data: bytes, /) -> NDArray[Any]: ...
    def finish(self) -> NDArray[Any]: ...


class ShardTokenizer(Protocol):
    """What encoding needs of a tokenizer; ``groundup.Tokenizer`` has it."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    @property
    def special_tokens(self) -> Any: ...
    def encode_batch_to_numpy(
        self,
        texts: list[bytes],
        /,
        *,
        allowed_special: Literal["all", "none"],
        append: int | None,
        num_threads: int | None,
    ) -> tuple[NDArray[Any], NDArray[Any]]: ...
    def stream(self, *, allowed_special: Literal["all", "none"]) -> TokenStream: ...
    def token_id(self, token: str, /) -> int: ...
    def token_lengths(self) -> NDArray[Any]: ...
    def save(self, folder: Path, /) -> object: ...


class DocumentSink(Protocol):
    """Takes the ids of documents; ``ShardWriter`` is one."""

    @property
    def tokens(self) -> int:
        """How many tokens there are."""

    def wants(self, number: int, /) -> bool:
        """Whether the document with this number, from 0 and without the empty ones, is to be encoded."""

    def add_documents(self, ids: NDArray[Any], ends: NDArray[Any], /) -> None:
        """Take whole documents, which follow one another in ``ids``, each with its separator."""

    def add(self, ids: NDArray[Any], /) -> None:
        """Take ids of a document that comes in parts."""

    def end_document(self) -> None:
        """Close that document with the separator."""


class DocumentPass:
    """Reads all inputs once.

    Args:
        reader: the documents.
        status: what the files were like before.
        record: hashes and counts what is read.
        progress: called about once a MiB of input, and at the end.

    Attributes:
        documents, empty_documents: how many of either there were so far.
    """

    def __init__(
        self,
        reader: TextReader,
        tokenizer: ShardTokenizer,
        plan: ShardPlan,
        status: InputStatus,
        record: TextRecord,
        *,
        num_threads: int | None = None,
        progress: Progress | None = None,
    ):
        self.documents = self.empty_documents = 0
        self._reader, self._tokenizer, self._plan, self._status, self._record = reader, tokenizer, plan, status, record
        self._threads, self._progress = num_threads, progress
        self._allowed: Literal["all", "none"] = "all" if plan.special_tokens == "encode" else "none"
        self._refused = RefusedNames(tokenizer.special_tokens) if plan.special_tokens == "error" else None
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._marks: list[tuple[int, Path]] = []

    def run(self, sink: DocumentSink | None = None) -> None:
        """Read to the end; without a sink nothing is encoded.

        Raises:
            DataError: a file changed while it was read, or a document has the name of a special token that must not
                be there; or from the reader or the sink.
        """
        with closing(self._pieces(sink)) as pieces:
            self._take(pieces, sink)
        if self._progress:
            self._progress(self._reader.bytes_read, self._reader.bytes_total, sink.tokens if sink else 0)

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
            self._batch_bytes += len(data) + _DOCUMENT_OVERHEAD
            if self._batch_bytes >= BATCH_BYTES:
                self._write_batch(sink if is_wanted else None)
        self._write_batch(sink if is_wanted else None)

    def _take_long(self, data: bytes, pieces: Iterator[Piece], sink: DocumentSink | None) -> None:
        """A document that comes in pieces, which is never held whole."""
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
        # Last, since the record may be ahead of the sink by nothing but whole documents that it holds.
        self._record.add_part(path, data, ends_document=True)

    def _write_batch(self, sink: DocumentSink | None) -> None:
        if not self._batch:
            return
        self._record.hold(self._batch, self._marks)
        if sink:
            ids, ends = self._tokenizer.encode_batch_to_numpy(
                self._batch,
                allowed_special=self._allowed,
                append=self._plan.separator_id,
                num_threads=self._threads,
            )
            sink.add_documents(ids, ends)
        self._record.flush()
        self._batch, self._batch_bytes, self._marks = [], 0, [(0, self._path)]

    def _number(self) -> int:
        """Number of the current document in its file, from 1, the empty ones counted."""
        return self.documents + self.empty_documents - self._before

    def _pieces(self, sink: DocumentSink | None) -> Generator[Piece, None, None]:
        """The pieces of the reader, under the progress of all; each file is looked at again after its last piece."""
        total, reported = self._reader.bytes_total, 0
        reading = None
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
                    self._progress(reported, total, sink.tokens if sink else 0)
        if reading is not None:
            self._status.check_unchanged(reading)
