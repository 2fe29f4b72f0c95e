"""Text files to token shards: readers, then tokenizer, then writer, in bounded memory and with resume.

After each document comes the separator's id. Empty documents are dropped: a separator right after another teaches a
model nothing, and a file that begins with one would begin with an empty document; how many there were is kept in the
index. A special token that appears inside a document's text becomes that token's id, as ``Tokenizer.encode`` has it.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from groundup.config import END_OF_TEXT
from groundup.data.shard_writer import (
    PROGRESS_FILE,
    ShardPlan,
    ShardWriter,
    clear,
    differences,
    is_data_set,
    own_files,
    read_progress,
)
from groundup.data.shards import INDEX_FILE, read_index
from groundup.errors import DataError, TokenizerError
from groundup.text.options import DEFAULT_FIELD, ReadOptions
from groundup.text.readers import STANDARD_INPUT, Inputs, Piece, TextReader, is_stream

DEFAULT_SHARD_TOKENS = 100_000_000
"""Tokens a shard: 200 MB at uint16, and at most so much work is lost by a kill."""

Progress: TypeAlias = Callable[[int, int | None, int], object]
"""Called with bytes read of the inputs, their size (None for standard input), and tokens written."""

BATCH_BYTES = 8 << 20
"""How much text is encoded at a time, unless a single document is longer: that one is never held whole."""
_REPORT_BYTES = 1 << 20
_FINGERPRINT_BYTES = 1 << 16


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
    def encode_batch_to_numpy(
        self, texts: list[bytes], /, *, append: int | None, num_threads: int | None
    ) -> tuple[NDArray[Any], NDArray[Any]]: ...
    def stream(self) -> TokenStream: ...
    def token_id(self, token: str, /) -> int: ...
    def token_lengths(self) -> NDArray[Any]: ...
    def save(self, folder: Path, /) -> object: ...


@dataclass(frozen=True, kw_only=True)
class EncodeStats:
    """What a data set holds, and how much of it this call had to do."""

    tokens: int
    """Separators included."""
    bytes: int
    """Of text; separators not included."""
    documents: int
    empty_documents: int
    """Dropped."""
    shards: int
    tokens_kept: int
    """Already there when the call began: all of them if the data set was complete."""

    @property
    def bytes_per_token(self) -> float:
        """The tokenizer's compression of this text."""
        return self.bytes / self.tokens

    @property
    def already_complete(self) -> bool:
        """Nothing was left to do."""
        return self.tokens_kept == self.tokens


def encode_files(
    inputs: Inputs | TextReader,
    tokenizer: ShardTokenizer,
    out_dir: str | Path,
    *,
    separator: str = END_OF_TEXT,
    field: str = "text",
    read: ReadOptions | None = None,
    shard_tokens: int = DEFAULT_SHARD_TOKENS,
    overwrite: bool = False,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> EncodeStats:
    """Tokenizes ``inputs`` into token shards in ``out_dir``, or goes on where an interrupted call stopped.

    A call that was killed leaves finished shards and ``progress.json``. The same call again keeps these shards, and
    the result is the same bytes as without the interruption. A finished data set of the same inputs, tokenizer and
    options is left as it is. Inputs are recognized by name, size, and their first and last 64 KiB.

    Args:
        inputs: files, folders or ``-``, as ``text.readers`` takes them; or a reader of them, with the same separator.
        tokenizer: a ``groundup.Tokenizer`` that has ``separator`` as a special token.
        separator: stands between the documents of plain text, and its id ends each document.
        field: JSON field or parquet column with the text.
        read: how the inputs are read: template, format, encoding, bad rows; by default as `ReadOptions` has it.
        shard_tokens: tokens in each shard but the last.
        overwrite: throw away a data set, finished or not, that is in ``out_dir``.
        num_threads: threads that encode; None for as many as this process may use cores. The result is the same.
        progress: called about once a MiB of input, and at the end.

    Raises:
        FileMissingError, MissingExtraError, DataError: from the readers.
        TokenizerError: the tokenizer does not have the separator.
        DataError: ``out_dir`` holds something else, an interrupted call with other inputs, tokenizer or options, or
            there is no text or no space on the disk.
    """
    if shard_tokens < 1:
        raise DataError(f"shard_tokens = {shard_tokens} must be at least 1; the default is {DEFAULT_SHARD_TOKENS}")
    if isinstance(inputs, str | Path | Sequence):
        inputs = TextReader(inputs, separator=separator, field=field, read=read)
    reader, folder = inputs, Path(out_dir)
    if reader.separator != separator:
        raise DataError(f"the reader has the separator {reader.separator!r}, and the call {separator!r}; give the same")
    plan = ShardPlan(
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.sha256,
        separator=separator,
        separator_id=_separator_id(tokenizer, separator),
        shard_tokens=shard_tokens,
        inputs=[_fingerprint(path) for path in reader.files],
        field=reader.options.field or DEFAULT_FIELD,
        reading=reader.options.record(),
    )
    if overwrite and is_data_set(folder):
        clear(folder)
    elif _is_complete(folder, plan):
        index = read_index(folder)
        return _stats(index, tokens_kept=index["tokens"])
    with ShardWriter(folder, plan, tokenizer.token_lengths()) as writer:
        tokens_kept = writer.tokens
        empty_documents = _write_documents(reader, tokenizer, writer, num_threads, progress)
        index = writer.finish(tokenizer.save, empty_documents=empty_documents)
    return _stats(index, tokens_kept)


def _write_documents(
    reader: TextReader,
    tokenizer: ShardTokenizer,
    writer: ShardWriter,
    num_threads: int | None,
    progress: Progress | None,
) -> int:
    """Encodes what the writer does not have yet; returns how many of all documents are empty."""
    documents_kept = writer.documents
    seen = empty = 0
    batch: list[bytes] = []
    batch_bytes = 0

    def write_batch() -> None:
        nonlocal batch, batch_bytes
        if batch:
            ids, ends = tokenizer.encode_batch_to_numpy(batch, append=writer.plan.separator_id, num_threads=num_threads)
            writer.add_documents(ids, ends)
            batch, batch_bytes = [], 0

    pieces = _reporting(reader, writer, progress)
    for first in pieces:
        if first.ends_document and not first.data:
            empty += 1
            continue
        seen += 1
        if first.ends_document:
            if seen > documents_kept:
                batch.append(first.data)
                batch_bytes += len(first.data)
                if batch_bytes >= BATCH_BYTES:
                    write_batch()
            continue
        rest = _rest_of_document(pieces)
        if seen <= documents_kept:
            for _ in rest:
                pass
            continue
        write_batch()
        stream = tokenizer.stream()
        writer.add(stream.feed(first.data))
        for data in rest:
            writer.add(stream.feed(data))
        writer.add(stream.finish())
        writer.end_document()
    write_batch()
    if progress:
        progress(reader.bytes_read, reader.bytes_total, writer.tokens)
    return empty


def _reporting(reader: TextReader, writer: ShardWriter, progress: Progress | None) -> Iterator[Piece]:
    total, reported = reader.bytes_total, 0
    for piece in reader:
        yield piece
        if progress and reader.bytes_read - reported >= _REPORT_BYTES:
            reported = reader.bytes_read
            progress(reported, total, writer.tokens)


def _rest_of_document(pieces: Iterator[Piece]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece.data
        if piece.ends_document:
            return


def _separator_id(tokenizer: ShardTokenizer, separator: str) -> int:
    try:
        return tokenizer.token_id(separator)
    except (KeyError, TokenizerError):
        specials = ", ".join(map(repr, getattr(tokenizer, "special_tokens", ()))) or "none"
        raise TokenizerError(
            f"the tokenizer has no special token {separator!r}; its special tokens: {specials}; "
            "name one of these as the separator, or train the tokenizer with it"
        ) from None


def _is_complete(folder: Path, plan: ShardPlan) -> bool:
    """Whether ``folder`` holds what is to be made; refuses one that holds anything else but a beginning of it."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; expected a folder to write token shards into: choose another name")
    if (folder / INDEX_FILE).exists():
        if any(source["name"] == STANDARD_INPUT for source in plan.inputs):
            raise DataError(
                f"{folder} holds a data set already, and standard input cannot be compared with what made it; "
                f"choose another folder, or replace it with --overwrite"
            )
        different = differences(read_index(folder), plan)
        if different:
            raise DataError(
                f"{folder} already holds a data set made otherwise: {' and '.join(different)} differ; "
                "choose another folder, or replace it with --overwrite"
            )
        return True
    if (folder / PROGRESS_FILE).exists():
        if any(source["name"] == STANDARD_INPUT for source in plan.inputs):
            raise DataError(
                f"{folder} holds an interrupted encoding, and standard input cannot be resumed; "
                f"start over with --overwrite"
            )
        record = read_progress(folder)
        different = differences(record, plan)
        if different and not record["shards"]:  # a beginning without one finished shard is nothing to lose
            clear(folder)
        elif different:
            raise DataError(
                f"{folder} holds an interrupted encoding made otherwise: {' and '.join(different)} differ; "
                "repeat that call to finish it, choose another folder, or start over with --overwrite"
            )
    elif set(folder.iterdir()) - set(own_files(folder)):
        raise DataError(f"{folder} is not empty and holds no token shards; choose a new folder")
    return False


def _fingerprint(path: Path) -> dict[str, Any]:
    """Tells a file from another one, whatever folder or machine it is on, without reading all of it."""
    if is_stream(path):
        return {"name": STANDARD_INPUT}
    with path.open("rb") as file:
        ends = hashlib.sha256(file.read(_FINGERPRINT_BYTES))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _FINGERPRINT_BYTES, 0))
        ends.update(file.read(_FINGERPRINT_BYTES))
    return {"name": path.name, "bytes": size, "ends_sha256": ends.hexdigest()}


def _stats(index: dict[str, Any], tokens_kept: int) -> EncodeStats:
    return EncodeStats(
        tokens=index["tokens"],
        bytes=index["bytes"],
        documents=index["documents"],
        empty_documents=index.get("empty_documents", 0),
        shards=len(index["shards"]),
        tokens_kept=tokens_kept,
    )
