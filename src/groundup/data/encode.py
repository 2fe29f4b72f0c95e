"""Text files to token shards: readers, then tokenizer, then writer, in bounded memory and with resume.

After each document comes the separator's id. Empty documents are dropped: a separator right after another teaches a
model nothing, and a file that begins with one would begin with an empty document; how many there were is kept in the
index. The name of a special token inside a document is text, unless ``special_tokens`` says otherwise.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args

from numpy.typing import NDArray

from groundup.config import END_OF_TEXT
from groundup.data.check import check_data_set, size_faults
from groundup.data.document_pass import DocumentPass, Progress, ShardTokenizer
from groundup.data.index import (
    INDEX_FILE,
    PROGRESS_FILE,
    clear,
    data_set_lock,
    is_data_set,
    read_index,
    read_progress,
    refuse_foreign,
)
from groundup.data.plan import InputStatus, ShardPlan, differences, fingerprint, is_repeatable
from groundup.data.repair import repair
from groundup.data.shard_writer import ShardWriter, other_text, text_lengths
from groundup.data.text_record import EMPTY_SHA256, TextRecord
from groundup.errors import DataError, TokenizerError
from groundup.text.options import DEFAULT_FIELD, ReadOptions
from groundup.text.readers import STANDARD_INPUT, Inputs, TextReader
from groundup.tokenizer.special_names import SpecialNames, SpecialTokenMode

DEFAULT_SHARD_TOKENS = 100_000_000
"""Tokens a shard: 200 MB at uint16, and at most so much work is lost by a kill."""


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
    special_tokens: str = "text"
    """How the names of special tokens inside documents were taken."""
    special_tokens_met: dict[str, int] | None = None
    """How often each was there; None where it was not recorded."""
    skipped_rows: int = 0
    """Passed over because they hold no text, with ``on_bad_row="skip"``."""
    repaired: tuple[str, ...] = ()
    """Files that were damaged or gone, and were made again."""

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
    special_tokens: SpecialTokenMode | None = None,
    shard_tokens: int = DEFAULT_SHARD_TOKENS,
    overwrite: bool = False,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> EncodeStats:
    """Tokenizes ``inputs`` into token shards in ``out_dir``, or goes on where an interrupted call stopped.

    A call that was killed leaves finished shards and ``progress.json``. The same call again keeps these shards, and
    the result is the same bytes as without the interruption. A finished data set of the same inputs, tokenizer and
    options is left as it is; files of it that are gone or cut off are made again. Inputs are recognized by size, time
    of the last change and inode, and where these differ by the SHA-256 of the text in them.

    Args:
        inputs: files, folders or ``-``, as ``text.readers`` takes them; or a reader of them, with the same separator.
        tokenizer: a ``groundup.Tokenizer`` that has ``separator`` as a special token.
        separator: stands between the documents of plain text, and its id ends each document.
        field: JSON field or parquet column with the text.
        read: how the inputs are read: template, format, encoding, bad rows; by default as `ReadOptions` has it.
        special_tokens: a special token's name inside a document is text ("text"), that token ("encode"), or an error.
            None: text; in a folder that version 0.1 began, which only knew "encode", that.
        shard_tokens: tokens in each shard but the last.
        overwrite: throw away a data set, finished or not, that is in ``out_dir``.
        num_threads: threads that encode; None for as many as this process may use cores. The result is the same.
        progress: called about once a MiB of input, and at the end.

    Raises:
        FileMissingError, MissingExtraError, DataError: from the readers.
        TokenizerError: the tokenizer does not have the separator.
        DataError: ``out_dir`` holds something else, an interrupted call with other inputs, tokenizer or options;
            another process writes it; an input changes while it is read; or there is no text or no space on the disk.
    """
    if shard_tokens < 1:
        raise DataError(f"shard_tokens = {shard_tokens} must be at least 1; the default is {DEFAULT_SHARD_TOKENS}")
    if special_tokens not in (None, *get_args(SpecialTokenMode)):
        raise DataError(f"special_tokens = {special_tokens!r}; expected 'text', 'encode' or 'error'")
    if isinstance(inputs, str | Path | Sequence):
        inputs = TextReader(inputs, separator=separator, field=field, read=read)
    reader, folder = inputs, Path(out_dir)
    if reader.separator != separator:
        raise DataError(f"the reader has the separator {reader.separator!r}, and the call {separator!r}; give the same")
    separator_id = _separator_id(tokenizer, separator)
    refuse_foreign(folder)
    with data_set_lock(folder):
        refuse_foreign(folder)
        if overwrite and is_data_set(folder):
            clear(folder)
        found = _found(folder)
        status = InputStatus(reader.files)  # before the fingerprints, so that no change can come between unseen
        plan = ShardPlan(
            vocab_size=tokenizer.vocab_size,
            tokenizer_sha256=tokenizer.sha256,
            separator=separator,
            separator_id=separator_id,
            shard_tokens=shard_tokens,
            inputs=[fingerprint(path) for path in reader.files],
            field=reader.options.field or DEFAULT_FIELD,
            reading=reader.options.record(),
            special_tokens=special_tokens or ("encode" if found and "special_tokens" not in found else "text"),
        )
        with closing(TextRecord(reader.files, SpecialNames(tokenizer.special_tokens))) as record:
            documents = DocumentPass(
                reader, tokenizer, plan, status, record, num_threads=num_threads, progress=progress
            )
            call = _Call(folder, tokenizer, plan, reader, status, record, documents)
            return call.encode() if _must_encode(folder, found, plan) else call.confirm()


def _found(folder: Path) -> dict[str, Any] | None:
    """The record of the data set in a folder, finished or not; None where there is none."""
    if (folder / INDEX_FILE).exists():
        return read_index(folder)
    return read_progress(folder) if (folder / PROGRESS_FILE).exists() else None


def _must_encode(folder: Path, found: dict[str, Any] | None, plan: ShardPlan) -> bool:
    """Whether something is left to encode.

    Raises:
        DataError: the folder holds a data set, finished or not, of another plan.
    """
    if found is None:
        return True
    is_finished = (folder / INDEX_FILE).exists()
    different = differences(found, plan)
    if not is_finished and different and not found["shards"]:  # a beginning without one finished shard is no loss
        clear(folder)
        return True
    streams = [source["name"] for source in plan.inputs if not is_repeatable(source)]
    if streams:
        name = "standard input" if streams[0] == STANDARD_INPUT else f"{streams[0]}, which is no regular file,"
        raise DataError(
            f"{folder} holds a data set already, and {name} cannot be compared with what made it; "
            f"choose another folder, or replace it with --overwrite"
            if is_finished
            else f"{folder} holds an interrupted encoding, and {name} cannot be resumed; start over with --overwrite"
        )
    if different and is_finished:
        raise DataError(
            f"{folder} already holds a data set made otherwise: {' and '.join(different)} differ; "
            "choose another folder, or replace it with --overwrite"
        )
    if different:
        raise DataError(
            f"{folder} holds an interrupted encoding made otherwise: {' and '.join(different)} differ; "
            "repeat that call to finish it, choose another folder, or start over with --overwrite"
        )
    return not is_finished


@dataclass
class _Call:
    """What one call has to do with a folder that it holds."""

    folder: Path
    tokenizer: ShardTokenizer
    plan: ShardPlan
    reader: TextReader
    status: InputStatus
    record: TextRecord
    documents: DocumentPass

    def encode(self) -> EncodeStats:
        """Encode what is not there yet."""
        lengths = text_lengths(self.tokenizer, self.plan.separator_id)
        with ShardWriter(self.folder, self.plan, lengths, self.record.sources) as writer:
            tokens_kept = writer.tokens
            sink = _NewDocuments(writer, self.record, self.status.files)
            self.documents.run(sink)
            sink.check_kept()
            index = writer.finish(
                self.tokenizer.save,
                inputs=self._inputs(),
                empty_documents=self.documents.empty_documents,
                special_tokens_met=self.record.met(),
                skipped_rows=self.reader.skipped_rows.count,
                left_out=self._left_out(),
            )
        self.status.write(self.folder)
        return _stats(index, tokens_kept)

    def confirm(self) -> EncodeStats:
        """Leave a finished data set as it is, once its inputs and files are what they were; repair what is damaged."""
        (self.folder / PROGRESS_FILE).unlink(missing_ok=True)  # left by a kill right after the index was written
        index = read_index(self.folder)
        is_hashed = all("text_sha256" in source for source in index.get("inputs") or [{}])
        known = self.status.is_recorded(self.folder)
        faults = size_faults(self.folder, index)
        if faults:  # a set of which something is damaged is looked at whole
            faults = check_data_set(self.folder)
        repaired = repair(self.folder, index, faults, self.tokenizer, self.documents) if faults else []
        if is_hashed and not known:
            if not self.documents.documents:
                self.documents.run()
            self._check_inputs(index)
        if is_hashed and (repaired or not known):
            self.status.write(self.folder)
        return replace(_stats(index, index["tokens"]), repaired=tuple(repaired))

    def _left_out(self) -> list[str]:
        """What the walk passed over. Of the data set itself there may be something by now, or not."""
        own = self.folder.resolve()
        others = [(path, why) for path, why in self.reader.left_out if not path.resolve().is_relative_to(own)]
        return [f"{path.name}: {reason}" for path, reason in others]

    def _check_inputs(self, index: dict[str, Any]) -> None:
        for path, now, then in zip(self.status.files, self._inputs(), index["inputs"], strict=True):
            if now["text_sha256"] != then["text_sha256"]:
                raise DataError(
                    f"{path} has another text than the one that {self.folder} was made from (SHA-256 "
                    f"{then['text_sha256'][:12]}…, now {now['text_sha256'][:12]}…); bring the text back, choose "
                    "another folder, or replace the data set with --overwrite"
                )

    def _inputs(self) -> list[dict[str, Any]]:
        """The inputs for the index: how to know each again, and what was read of it."""
        read = {entry["input"]: entry for entry in self.record.sources()}
        empty = {"documents": 0, "text_bytes": 0, "text_sha256": EMPTY_SHA256}
        places = {path: place for place, path in reversed(list(enumerate(self.status.files)))}
        facts = [read.get(places[path], empty) for path in self.status.files]
        return [
            source | {key: fact[key] for key in empty} for source, fact in zip(self.plan.inputs, facts, strict=True)
        ]


class _NewDocuments:
    """Hands the writer the documents that it does not have yet, once those that it has are the same text."""

    def __init__(self, writer: ShardWriter, record: TextRecord, files: list[Path]):
        self._writer, self._record, self._files = writer, record, files
        self._kept = writer.documents
        self._is_checked = not writer.tokens

    @property
    def tokens(self) -> int:
        """How many there are, those from before included."""
        return self._writer.tokens

    def wants(self, number: int) -> bool:
        """Whether the writer does not have the document."""
        return number >= self._kept

    def add_documents(self, ids: NDArray[Any], ends: NDArray[Any]) -> None:
        """See `ShardWriter.add_documents`."""
        self.check_kept()
        self._writer.add_documents(ids, ends)

    def add(self, ids: NDArray[Any]) -> None:
        """See `ShardWriter.add`."""
        self.check_kept()
        self._writer.add(ids)

    def end_document(self) -> None:
        """See `ShardWriter.end_document`."""
        self._writer.end_document()

    def check_kept(self) -> None:
        """Compare the documents before the first new one with what they were.

        Raises:
            DataError: they are not the same text.
        """
        if self._is_checked:
            return
        self._is_checked = True
        before, now = self._writer.kept_sources, self._record.sources(self._kept)
        if before is None:  # version 0.1 did not record it
            return
        for seen, kept in zip_longest(now, before):
            if seen != kept:
                place = (kept or seen or {}).get("input")
                name = self._files[place] if isinstance(place, int) and place < len(self._files) else ""
                raise other_text(self._writer.folder, str(name))


def _separator_id(tokenizer: ShardTokenizer, separator: str) -> int:
    try:
        return tokenizer.token_id(separator)
    except (KeyError, TokenizerError):
        specials = ", ".join(map(repr, getattr(tokenizer, "special_tokens", ()))) or "none"
        raise TokenizerError(
            f"the tokenizer has no special token {separator!r}; its special tokens: {specials}; "
            "name one of these as the separator, or train the tokenizer with it"
        ) from None


def _stats(index: dict[str, Any], tokens_kept: int) -> EncodeStats:
    return EncodeStats(
        tokens=index["tokens"],
        bytes=index["bytes"],
        documents=index["documents"],
        empty_documents=index.get("empty_documents", 0),
        shards=len(index["shards"]),
        tokens_kept=tokens_kept,
        special_tokens=index.get("special_tokens", "encode"),
        special_tokens_met=index.get("special_tokens_met"),
        skipped_rows=index.get("skipped_rows") or 0,
    )
