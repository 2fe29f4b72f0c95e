"""Encoding of text files into token shards: readers, tokenizer and writer, in bounded memory and with resume.

Each document ends with the separator's id. Empty documents are dropped, because a model learns nothing from two
separators in a row, and a file that begins with a separator would begin with an empty document. The index records their
number. The name of a special token inside a document is text, unless ``special_tokens`` says otherwise.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args

from numpy.typing import NDArray

from groundup.config import END_OF_TEXT
from groundup.data.chat import ChatEncoding
from groundup.data.check import Fault, check_data_set, size_faults
from groundup.data.document_pass import EMPTY_SHA256, DocumentPass, TextRecord
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
from groundup.display.progress import Progress, Silent, Update
from groundup.display.units import size_text
from groundup.errors import DataError, GroundupError, TokenizerError
from groundup.text.chat.rendering import Loss
from groundup.text.options import DEFAULT_FIELD, ReadOptions
from groundup.text.readers import STANDARD_INPUT, Inputs, TextReader
from groundup.tokenizer.special_tokens import SpecialNames, SpecialTokenMode
from groundup.tokenizer.tokenizer import Tokenizer

DEFAULT_SHARD_TOKENS = 100_000_000
"""Tokens per shard: 200 MB as uint16. A kill loses at most the work on one shard."""
_FEW_BYTES_PER_TOKEN = 1.5


@dataclass(frozen=True, kw_only=True)
class EncodeStats:
    """Statistics of a data set, and of the part of it that this call encoded."""

    tokens: int
    """Separators included."""
    bytes: int
    """Bytes of text; separators not included."""
    documents: int
    empty_documents: int
    """Documents dropped because they are empty."""
    shards: int
    tokens_kept: int
    """Tokens that existed when the call began: all of them if the data set was complete."""
    special_tokens: str = "text"
    """Meaning of the names of special tokens inside documents."""
    special_tokens_met: dict[str, int] | None = None
    """Number of occurrences of each; None if not recorded."""
    skipped_rows: int = 0
    """Rows without text that were skipped, with ``on_bad_row="skip"``."""
    counted: int | None = None
    """Tokens that count for the loss; None if all do."""
    is_chat: bool = False
    """Whether the documents are conversations."""
    repaired: tuple[str, ...] = ()
    """Files that were damaged or missing, and were written again."""

    @property
    def bytes_per_token(self) -> float:
        """Compression ratio of the tokenizer on this text, separators included."""
        return self.bytes / self.tokens

    @property
    def already_complete(self) -> bool:
        """Whether the data set was complete when the call began."""
        return self.tokens_kept == self.tokens

    def summary(self, seconds: float) -> str:
        """One line on the data set and what this call did."""
        found = (
            f"{self.documents:,} documents, {size_text(self.bytes)} = {self.tokens:,} tokens "
            f"({self.bytes_per_token:.2f} bytes each) in {self.shards} shard{'s' * (self.shards > 1)}"
        )
        if self.counted is not None:
            found += f", of which {self.counted:,} ({self.counted / self.tokens:.0%}) count for the loss"
        if self.repaired:
            return f"{found}; damaged files written again: {', '.join(self.repaired)}, {seconds:.1f} s"
        if self.already_complete:
            return f"{found}; already complete, nothing to do"
        kept = f", {self.tokens_kept:,} of the tokens from before" if self.tokens_kept else ""
        return f"{found}{kept}, {seconds:.1f} s"

    def warnings(self) -> Iterator[str]:
        """Warnings about the text: too many tokens, or names of special tokens in it."""
        in_text = self.bytes / max(self.tokens - self.documents, 1)
        # Of conversations, special tokens and roles are no text, and would be taken for its fault.
        if in_text < _FEW_BYTES_PER_TOKEN and not self.is_chat:
            yield (
                f"warning: only {in_text:.2f} bytes a token without separators; text usually has 3 to 5: the input may "
                "not be text, or may have another language or encoding than the tokenizer's training text"
            )
        if self.special_tokens_met:
            met = ", ".join(f"{name} × {count:,}" for name, count in self.special_tokens_met.items())
            is_encoded = self.special_tokens == "encode"
            taken = (
                "as special tokens"
                if is_encoded
                else "as text" + " (--special-tokens encode: as special tokens)" * (not self.is_chat)
            )
            yield f"names of special tokens in documents were taken {taken}: {met}"


def encode_with_summary(
    inputs: Inputs,
    tokenizer: Tokenizer,
    out_dir: Path,
    *,
    separator: str = END_OF_TEXT,
    read: ReadOptions | None = None,
    loss: Loss | None = None,
    special_tokens: SpecialTokenMode | None = None,
    add_special_tokens: bool = False,
    shard_tokens: int = DEFAULT_SHARD_TOKENS,
    overwrite: bool = False,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> EncodeStats:
    """Call `encode_files`, and print notes on the inputs and the result."""
    began = time.perf_counter()
    progress = progress or Silent()
    with _chat(read, tokenizer, separator, loss, special_tokens, add_special_tokens) as chat:
        reader = TextReader(inputs, separator=separator, read=read, conversations=chat.reader if chat else None)
        reader.say_left_out(progress.note)
        stats = encode_files(
            reader, tokenizer, out_dir, separator=separator, special_tokens=special_tokens, shard_tokens=shard_tokens,
            overwrite=overwrite, num_threads=num_threads, progress=progress, chat=chat,
        )  # fmt: skip
    progress.note(f"{out_dir}: {stats.summary(time.perf_counter() - began)}")
    reader.say_how_read(progress.note)
    for line in (*stats.warnings(), chat.note if chat else ""):
        if line:
            progress.note(line)
    return stats


def _chat(
    read: ReadOptions | None,
    tokenizer: Tokenizer,
    separator: str,
    loss: Loss | None,
    special_tokens: SpecialTokenMode | None,
    add_special_tokens: bool,
) -> AbstractContextManager[ChatEncoding | None]:
    """What encodes conversations, for the block; None for text."""
    if read is not None and read.is_chat:
        return ChatEncoding(
            read, tokenizer, separator, loss=loss or "assistant", special_tokens=special_tokens,
            adds_special_tokens=add_special_tokens,
        )  # fmt: skip
    if loss is not None or add_special_tokens:
        flag = "--loss" if loss is not None else "--add-special-tokens"
        raise DataError(f"{flag} is for conversations; give --format chat, or leave it out")
    return nullcontext()


def encode_files(
    inputs: Inputs | TextReader,
    tokenizer: Tokenizer,
    out_dir: str | Path,
    *,
    separator: str = END_OF_TEXT,
    field: str = "text",
    read: ReadOptions | None = None,
    special_tokens: SpecialTokenMode | None = None,
    shard_tokens: int = DEFAULT_SHARD_TOKENS,
    overwrite: bool = False,
    num_threads: int | None = None,
    progress: Update | None = None,
    chat: ChatEncoding | None = None,
) -> EncodeStats:
    """Encode ``inputs`` into token shards in ``out_dir``, or resume an interrupted call.

    A killed call leaves finished shards and ``progress.json``. The same call again keeps these shards, and the result
    has the same bytes as without the interruption. A finished data set of the same inputs, tokenizer and options is
    left unchanged, except that missing or truncated files are written again. Inputs are compared by size, modification
    time and inode, and if these differ, by the SHA-256 of their text.

    Args:
        inputs: files, folders or ``-``, as for ``text.readers``; or a reader of them, with the same separator.
        tokenizer: a tokenizer that has ``separator`` as a special token.
        separator: token between the documents of plain text; its id ends each document.
        field: JSON field or parquet column with the text.
        read: options for reading: template, format, encoding, bad rows; by default those of `ReadOptions`.
        special_tokens: a special token's name inside a document is text ("text"), that token ("encode"), or an error
            ("error"). None: "text"; "encode" in a folder that version 0.1 began, which had no other way.
        shard_tokens: tokens in each shard but the last.
        overwrite: delete a data set, finished or not, that is in ``out_dir``.
        num_threads: threads that encode; None for the number of available cores. The result is the same.
        progress: called about once a MiB of input, and at the end.
        chat: encodes conversations; the inputs are a reader with its ``chat.reader``. Its tokenizer is taken.

    Raises:
        FileMissingError, MissingExtraError, DataError: from the readers.
        TokenizerError: the tokenizer does not have the separator.
        DataError: ``out_dir`` contains other files, or an interrupted call with other inputs, tokenizer or options;
            another process is writing it; an input changes while it is read; there is no text; or the disk is full.
    """
    reader = _checked_reader(inputs, separator, field, read, special_tokens, shard_tokens)
    tokenizer = chat.tokenizer if chat else tokenizer
    folder, separator_id = Path(out_dir), _separator_id(tokenizer, separator)
    refuse_foreign(folder)
    with _no_empty_folder(folder), data_set_lock(folder):
        refuse_foreign(folder)
        if overwrite and is_data_set(folder):
            clear(folder)
        found = _found(folder)
        status = InputStatus(reader.files)  # before the fingerprints, to detect a change in between
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
            chat=chat.record() if chat else None,
        )
        # In the documents of conversations the template's special tokens stand too; their reader counts the others.
        names = SpecialNames([] if chat else tokenizer.special_tokens)
        with closing(TextRecord(reader.files, names)) as record:
            documents = DocumentPass(
                reader, tokenizer, plan, status, record, chat=chat, num_threads=num_threads, progress=progress
            )
            call = _Call(folder, tokenizer, plan, reader, status, record, documents, chat)
            return call.encode() if _must_encode(folder, found, plan) else call.confirm()


@contextmanager
def _no_empty_folder(folder: Path) -> Iterator[None]:
    """Remove a folder that the block has made, and in which it has left nothing because of an error."""
    existed = folder.exists()
    try:
        yield
    except GroundupError:
        if not existed:
            with suppress(OSError):
                folder.rmdir()
        raise


def _checked_reader(
    inputs: Inputs | TextReader,
    separator: str,
    field: str,
    read: ReadOptions | None,
    special_tokens: SpecialTokenMode | None,
    shard_tokens: int,
) -> TextReader:
    """Check the arguments of `encode_files`, and return the reader of the inputs."""
    if shard_tokens < 1:
        raise DataError(f"shard_tokens = {shard_tokens} must be at least 1; the default is {DEFAULT_SHARD_TOKENS}")
    if special_tokens not in (None, *get_args(SpecialTokenMode)):
        raise DataError(f"special_tokens = {special_tokens!r}; expected 'text', 'encode' or 'error'")
    if isinstance(inputs, str | Path | Sequence):
        inputs = TextReader(inputs, separator=separator, field=field, read=read)
    if inputs.separator != separator:
        raise DataError(
            f"the reader has the separator {inputs.separator!r}, but the call has {separator!r}; give the same one"
        )
    return inputs


def _found(folder: Path) -> dict[str, Any] | None:
    """The record of the data set in a folder, finished or not; None without one."""
    if (folder / INDEX_FILE).exists():
        return read_index(folder)
    return read_progress(folder) if (folder / PROGRESS_FILE).exists() else None


def _must_encode(folder: Path, found: dict[str, Any] | None, plan: ShardPlan) -> bool:
    """Whether documents remain to be encoded.

    Raises:
        DataError: the folder contains a data set, finished or not, of another plan.
    """
    if found is None:
        return True
    is_finished = (folder / INDEX_FILE).exists()
    different = differences(found, plan)
    if not is_finished and different and not found["shards"]:  # no finished shard is lost
        clear(folder)
        return True
    streams = [source["name"] for source in plan.inputs if not is_repeatable(source)]
    if streams:
        name = "standard input" if streams[0] == STANDARD_INPUT else f"{streams[0]}, which is not a regular file,"
        raise DataError(
            f"{folder} already contains a data set, and {name} cannot be compared with its inputs; "
            f"choose another folder, or replace it with --overwrite"
            if is_finished
            else f"{folder} contains an interrupted encoding, and {name} cannot be resumed; start over with --overwrite"
        )
    if different and is_finished:
        raise DataError(
            f"{folder} already contains a data set from another call: {' and '.join(different)} differ; "
            "choose another folder, or replace it with --overwrite"
        )
    if different:
        raise DataError(
            f"{folder} contains an interrupted encoding from another call: {' and '.join(different)} differ; "
            "repeat that call to finish it, choose another folder, or start over with --overwrite"
        )
    return not is_finished


@dataclass
class _Call:
    """One call of `encode_files`, while it holds the lock of the folder."""

    folder: Path
    tokenizer: Tokenizer
    plan: ShardPlan
    reader: TextReader
    status: InputStatus
    record: TextRecord
    documents: DocumentPass
    chat: ChatEncoding | None = None

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer, and the template of conversations, into a folder."""
        (self.chat or self.tokenizer).save(folder)

    def encode(self) -> EncodeStats:
        """Encode the documents that are missing."""
        lengths = text_lengths(self.tokenizer, self.plan.separator_id)
        with ShardWriter(self.folder, self.plan, lengths, self.record.sources) as writer:
            tokens_kept = writer.tokens
            sink = _NewDocuments(writer, self.record, self.status.files)
            self.documents.run(sink)
            sink.check_kept()
            index = writer.finish(
                self.save_tokenizer,
                inputs=self._inputs(),
                empty_documents=self.documents.empty_documents,
                special_tokens_met=self.chat.met() if self.chat else self.record.met(),
                skipped_rows=self.reader.skipped_rows.count,
                left_out=self._left_out(),
            )
        self.status.write(self.folder)
        return _stats(index, tokens_kept)

    def confirm(self) -> EncodeStats:
        """Check that inputs and files of a finished data set are unchanged, and repair damaged files."""
        (self.folder / PROGRESS_FILE).unlink(missing_ok=True)  # left if a call is killed after it wrote the index
        index = read_index(self.folder)
        is_hashed = all("text_sha256" in source for source in index.get("inputs") or [{}])
        known = self.status.is_recorded(self.folder)
        faults = size_faults(self.folder, index)
        if faults:  # check all content of a data set with damage
            faults = check_data_set(self.folder)
        repaired = self._repair(index, faults) if faults else []
        if is_hashed and not known:
            if not self.documents.documents:
                self.documents.run()
            self._check_inputs(index)
        if is_hashed and (repaired or not known):
            self.status.write(self.folder)
        return replace(_stats(index, index["tokens"]), repaired=tuple(repaired))

    def _repair(self, index: dict[str, Any], faults: list[Fault]) -> list[str]:
        return repair(self.folder, index, faults, self.tokenizer, self.documents, self.save_tokenizer)

    def _left_out(self) -> list[str]:
        """Files in folders that are not read, without those of the data set itself, which come and go."""
        own = self.folder.resolve()
        others = [(path, why) for path, why in self.reader.left_out if not path.resolve().is_relative_to(own)]
        return [f"{path.name}: {reason}" for path, reason in others]

    def _check_inputs(self, index: dict[str, Any]) -> None:
        for path, now, then in zip(self.status.files, self._inputs(), index["inputs"], strict=True):
            if now["text_sha256"] != then["text_sha256"]:
                raise DataError(
                    f"{path} has changed since {self.folder} was encoded from it (SHA-256 of the text "
                    f"{then['text_sha256'][:12]}…, now {now['text_sha256'][:12]}…); restore the text, choose "
                    "another folder, or replace the data set with --overwrite"
                )

    def _inputs(self) -> list[dict[str, Any]]:
        """The inputs for the index: fingerprint and record of each."""
        read = {entry["input"]: entry for entry in self.record.sources()}
        empty = {"documents": 0, "text_bytes": 0, "text_sha256": EMPTY_SHA256}
        places = {path: place for place, path in reversed(list(enumerate(self.status.files)))}
        facts = [read.get(places[path], empty) for path in self.status.files]
        return [
            source | {key: fact[key] for key in empty} for source, fact in zip(self.plan.inputs, facts, strict=True)
        ]


class _NewDocuments:
    """Sink that passes new documents to the writer, after a check that the documents it has are the same text."""

    def __init__(self, writer: ShardWriter, record: TextRecord, files: list[Path]):
        self._writer, self._record, self._files = writer, record, files
        self._kept = writer.documents
        self._is_checked = not writer.tokens

    @property
    def tokens(self) -> int:
        """Number of tokens, including those from before."""
        return self._writer.tokens

    def wants(self, number: int) -> bool:
        """Whether the writer does not have the document."""
        return number >= self._kept

    def add_documents(self, ids: NDArray[Any], ends: NDArray[Any], counts: NDArray[Any] | None = None) -> None:
        """See `ShardWriter.add_documents`."""
        self.check_kept()
        self._writer.add_documents(ids, ends, counts)

    def add(self, ids: NDArray[Any]) -> None:
        """See `ShardWriter.add`."""
        self.check_kept()
        self._writer.add(ids)

    def end_document(self) -> None:
        """See `ShardWriter.end_document`."""
        self._writer.end_document()

    def check_kept(self) -> None:
        """Compare the documents before the first new one with their record.

        Raises:
            DataError: the text has changed.
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


def _separator_id(tokenizer: Tokenizer, separator: str) -> int:
    try:
        return tokenizer.token_id(separator)
    except TokenizerError:
        specials = ", ".join(map(repr, tokenizer.special_tokens)) or "none"
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
        counted=index.get("counted"),
        is_chat="chat" in index,
    )
