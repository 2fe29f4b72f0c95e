"""Writes the folder that ``shards`` reads; a kill at any moment leaves a whole data set or one that can be resumed.

All shards but the last have exactly ``shard_tokens`` tokens, so where they are cut depends on nothing but the tokens.
Each is written under another name, forced to disk, renamed, and only then entered in ``progress.json``; ``index.json``
comes last and takes its place. What a process that died left beyond the last entry is thrown away by the next one.
"""

import dataclasses
import hashlib
import io
import json
import os
import shutil
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from groundup.data.shards import (
    DOCUMENTS_FILE,
    FORMAT,
    INDEX_FILE,
    SHARD_PATTERN,
    TOKEN_LENGTHS_FILE,
    TOKENIZER_FOLDER,
    VERSION,
    file_sha256,
    read_index,
    token_dtype,
)
from groundup.errors import DataError, GroundupError
from groundup.files import sync_directory, write_atomically

PROGRESS_FILE = "progress.json"
PROGRESS_FORMAT = "groundup-token-shards-progress"

_DOCUMENTS_HELD = 1 << 20
_TOKENS_HELD = 1 << 18


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """All that decides the bytes of a data set, apart from the text; calls with equal plans may share a folder."""

    vocab_size: int
    tokenizer_sha256: str
    separator: str
    separator_id: int
    shard_tokens: int
    inputs: list[dict[str, Any]]
    """Name, size and fingerprint of each input file."""
    field: str = "text"
    """JSON field or parquet column that holds the text."""
    reading: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Further options of reading that are not at their defaults."""


class ShardWriter:
    """Appends documents to a data set in ``folder``, after those that an interrupted writer with the same plan left.

        with ShardWriter(folder, plan, token_lengths) as writer:     # the first writer.documents are there already
            writer.add_documents(ids, ends)                          # some whole documents
            writer.add(ids); writer.add(more_ids); writer.end_document()
            index = writer.finish(tokenizer.save)

    Args:
        token_lengths: ``(vocab_size,)``, bytes of text that each id stands for.

    A document that an interrupted writer has begun is given again from its beginning; what is there is skipped.

    Attributes:
        documents, tokens: how much has been added; not 0 at the start where a writer was interrupted.

    Raises:
        DataError: the folder is in use for something else, an id does not fit the vocabulary, or the disk is full.
    """

    def __init__(self, folder: Path, plan: ShardPlan, token_lengths: NDArray[Any]):
        self.folder, self.plan = folder, plan
        self.documents = self.tokens = 0
        self._lengths = np.asarray(token_lengths, np.uint32)
        self._dtype = token_dtype(plan.vocab_size)
        self._shards: list[dict[str, Any]] = []
        self._ends = array("Q")
        self._already_there = 0  # tokens of the first document to come that an interrupted writer has left
        self._separator = np.array([plan.separator_id], np.uint32)
        self._shard: _OpenShard | None = None
        with _disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / PROGRESS_FILE).exists():
                self._resume(read_progress(folder))
            else:
                clear(folder)
                write_atomically(folder / DOCUMENTS_FILE, bytes(8))
                self._save_progress()
            self._ends_file = (folder / DOCUMENTS_FILE).open("ab")

    def add_documents(self, ids: NDArray[Any], ends: NDArray[Any]) -> None:
        """Appends whole documents.

        Args:
            ids: ``(N,)``, the ids of all, each document's separator included; must not change afterwards.
            ends: ``(documents,)``, where each ends in ``ids``.
        """
        begin = first = 0
        while first < len(ends):
            # As many as the shard has room for, but at least one: what is entered as finished has to lie in it.
            room = self.plan.shard_tokens - (self._shard.tokens if self._shard else 0)
            last = max(first + 1, int(np.searchsorted(ends, begin + room, side="right")))
            end = int(ends[last - 1])
            skipped = min(self._already_there, end - begin)
            before = self.tokens - begin - skipped
            self.add(ids[begin:end])
            self._ends.frombytes((ends[first:last].astype("<u8") + np.uint64(before)).astype("=u8").tobytes())
            self._end_documents(last - first)
            begin, first = end, last

    def add(self, ids: NDArray[Any]) -> None:
        """Appends ids of the current document; the array must not change afterwards."""
        known = min(self._already_there, len(ids))
        self._already_there -= known
        ids = ids[known:]
        while len(ids):
            if self._shard is not None and self._shard.tokens == self.plan.shard_tokens:
                self._close_shard()
            if self._shard is None:
                path = self.folder / f"shard-{len(self._shards):05d}.bin"
                self._shard = _OpenShard(path, self.plan.vocab_size, self._lengths)
            part = ids[: self.plan.shard_tokens - self._shard.tokens]
            self._shard.add(part)
            self.tokens += len(part)
            ids = ids[len(part) :]

    def end_document(self) -> None:
        """Closes the current document with the separator."""
        self.add(self._separator)
        self._ends.append(self.tokens)
        self._end_documents(1)

    def _end_documents(self, count: int) -> None:
        self.documents += count
        if len(self._ends) >= _DOCUMENTS_HELD:
            with _disk_errors(self.folder / DOCUMENTS_FILE):
                self._save_ends()

    def finish(self, save_tokenizer: Callable[[Path], object], **totals: int) -> dict[str, Any]:
        """Closes the last shard and makes the folder a data set; returns its index.

        Args:
            save_tokenizer: writes the tokenizer into a folder.
            totals: further counts to keep in the index.

        Raises:
            DataError: no document was written, or the disk is full.
        """
        if not self.documents:
            self.close()
            clear(self.folder)
            raise DataError("the inputs hold no text, only empty documents; expected at least one byte of text")
        with _disk_errors(self.folder):
            self._close_shard()
            self.close()
            lengths = io.BytesIO()
            np.save(lengths, self._lengths)
            write_atomically(self.folder / TOKEN_LENGTHS_FILE, lengths.getvalue())
            shutil.rmtree(self.folder / TOKENIZER_FOLDER, ignore_errors=True)
            save_tokenizer(self.folder / TOKENIZER_FOLDER)
            index = self._index(totals)
            write_atomically(self.folder / INDEX_FILE, _json(index))
            (self.folder / PROGRESS_FILE).unlink()
        return index

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the files; what is not in a finished shard is written again by the next writer."""
        for file in (self._ends_file, self._shard):
            # On a full disk, closing fails as writing did; that error is on its way already.
            with suppress(OSError):
                if file is not None:
                    file.close()

    def _close_shard(self) -> None:
        if self._shard is None:
            return
        self._shards.append(self._shard.finish())
        self._shard = None
        with _disk_errors(self.folder / DOCUMENTS_FILE):
            self._save_ends()
            _sync(self._ends_file)
            self._save_progress()

    def _save_ends(self) -> None:
        ends = np.array(self._ends, "<u8")
        self._ends_file.write(ends.data)
        del self._ends[:]

    def _save_progress(self) -> None:
        record = {"format": PROGRESS_FORMAT, "version": VERSION, **_plan_record(self.plan)}
        record |= {"documents": self.documents, "shards": self._shards}
        write_atomically(self.folder / PROGRESS_FILE, _json(record))

    def _resume(self, progress: dict[str, Any]) -> None:
        """Takes up the finished shards, once their hashes agree, and removes whatever was written after them."""
        documents = self.folder / DOCUMENTS_FILE
        whole = {self.folder / shard["file"]: shard["sha256"] for shard in progress["shards"]}
        damaged = [path for path, digest in whole.items() if not path.exists() or file_sha256(path) != digest]
        if not documents.exists() or documents.stat().st_size < 8 * (progress["documents"] + 1):
            damaged.append(documents)
        if damaged:
            raise DataError(f"{damaged[0]} is not what was written before the interruption; overwrite it to start over")
        self._shards = progress["shards"]
        kept = {PROGRESS_FILE, DOCUMENTS_FILE, TOKENIZER_FOLDER, *(shard["file"] for shard in self._shards)}
        for path in own_files(self.folder):
            if path.name not in kept:
                path.unlink()
        self.documents = progress["documents"]
        self.tokens = sum(shard["tokens"] for shard in self._shards)
        os.truncate(documents, 8 * (self.documents + 1))
        self._already_there = self.tokens - int(np.fromfile(documents, "<u8", offset=8 * self.documents)[0])

    def _index(self, totals: dict[str, int]) -> dict[str, Any]:
        files = {
            f"{Path(name).stem}_file": {"file": name, "sha256": file_sha256(self.folder / name)}
            for name in (DOCUMENTS_FILE, TOKEN_LENGTHS_FILE)
        }
        return {
            "format": FORMAT,
            "version": VERSION,
            "dtype": self._dtype.name,
            "tokens": self.tokens,
            "bytes": sum(shard["bytes"] for shard in self._shards),
            "documents": self.documents,
            **totals,
            **_plan_record(self.plan),
            **files,
            "shards": self._shards,
        }


class _OpenShard:
    """The shard that is being written, under a name that says so."""

    def __init__(self, path: Path, vocab_size: int, token_lengths: NDArray[np.uint32]):
        self.path, self.tokens = path, 0
        self._vocab_size, self._lengths = vocab_size, token_lengths
        self._held: list[NDArray[Any]] = []
        self._held_tokens = self._text_bytes = 0
        self._hash = hashlib.sha256()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="shard-writer")
        self._writing: Future[None] | None = None
        self._temporary = path.with_name(path.name + ".part")
        with _disk_errors(path):
            self._file = self._temporary.open("wb")

    def add(self, ids: NDArray[Any]) -> None:
        # Documents are short, and every step below costs more than a document: they are taken together.
        self._held.append(ids)
        self._held_tokens += len(ids)
        self.tokens += len(ids)
        if self._held_tokens >= _TOKENS_HELD:
            self._write()

    def finish(self) -> dict[str, Any]:
        """Puts the shard in its place, on the disk; returns its entry in the index."""
        self._write()
        self._wait()
        self._writer.shutdown()
        with _disk_errors(self.path):
            _sync(self._file)
            self._file.close()
            os.replace(self._temporary, self.path)
            sync_directory(self.path.parent)
        digest = self._hash.hexdigest()
        return {"file": self.path.name, "tokens": self.tokens, "bytes": self._text_bytes, "sha256": digest}

    def close(self) -> None:
        with suppress(DataError):  # whoever waits for what is being written is told
            self._wait()
        self._writer.shutdown()
        self._file.close()

    def _write(self) -> None:
        """Begins to write what is held, in another thread, so that the next text is encoded meanwhile."""
        if not self._held:
            return
        self._wait()
        self._writing = self._writer.submit(self._write_now, self._held)
        self._held, self._held_tokens = [], 0

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write_now(self, held: list[NDArray[Any]]) -> None:
        ids = np.concatenate(held)
        if int(ids.max()) >= self._vocab_size or int(ids.min()) < 0:
            wrong = ids[(ids >= self._vocab_size) | (ids < 0)][0]
            raise DataError(
                f"the tokenizer gave the id {wrong}, but its vocab_size is {self._vocab_size}; "
                "its vocabulary is damaged: save or train it again"
            )
        self._text_bytes += int(np.take(self._lengths, ids).sum(dtype=np.int64))
        data = ids.astype(token_dtype(self._vocab_size)).data
        self._hash.update(data)
        with _disk_errors(self.path):
            self._file.write(data)


def _plan_record(plan: ShardPlan) -> dict[str, Any]:
    return {
        "vocab_size": plan.vocab_size,
        "tokenizer_sha256": plan.tokenizer_sha256,
        "separator": {"token": plan.separator, "id": plan.separator_id},
        "shard_tokens": plan.shard_tokens,
        "inputs": plan.inputs,
        "field": plan.field,
    } | ({"reading": plan.reading} if plan.reading else {})


def differences(record: dict[str, Any], plan: ShardPlan) -> list[str]:
    """What in an index or a progress file is not as in ``plan``, in a user's words; empty if all is the same."""
    names = {
        "tokenizer_sha256": "the tokenizer",
        "vocab_size": "the vocabulary size",
        "separator": "the separator",
        "shard_tokens": "the shard size",
        "inputs": "the inputs",
        "field": "the field",
        "reading": "the options of reading",
    }
    wanted = _plan_record(plan)
    return [words for key, words in names.items() if record.get(key) != wanted.get(key)]


def read_progress(folder: Path) -> dict[str, Any]:
    """What an interrupted writer has finished.

    Raises:
        DataError: the file is not one of ours, or of another version.
    """
    path = folder / PROGRESS_FILE
    try:
        progress = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); delete it and encode again") from None
    seen = (progress.get("format"), progress.get("version")) if isinstance(progress, dict) else type(progress).__name__
    if seen != (PROGRESS_FORMAT, VERSION):
        raise DataError(f"{path} is of {seen}; expected {(PROGRESS_FORMAT, VERSION)}; encode into a new folder")
    return dict(progress)


def is_data_set(folder: Path) -> bool:
    """Whether ``folder`` holds an index or a progress file of ours, so that it may be cleared.

    Raises:
        DataError: it holds one that is not ours, or a damaged one.
    """
    if (folder / INDEX_FILE).exists():
        read_index(folder)
    elif (folder / PROGRESS_FILE).exists():
        read_progress(folder)
    else:
        return False
    return True


def own_files(folder: Path) -> list[Path]:
    """What belongs to a data set in ``folder``, finished or not; the index comes first."""
    single = (INDEX_FILE, PROGRESS_FILE, DOCUMENTS_FILE, TOKEN_LENGTHS_FILE)
    patterns = (
        *single,
        TOKENIZER_FOLDER,
        SHARD_PATTERN,
        SHARD_PATTERN + ".part",
        *(f".{name}.*.tmp" for name in single),
    )
    return [path for pattern in patterns for path in folder.glob(pattern)]


def clear(folder: Path) -> None:
    """Removes a data set, finished or not, from ``folder``, and nothing else."""
    # The index goes first: without it the rest cannot be taken for a data set.
    for path in own_files(folder):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _json(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogateescape")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, GroundupError):
            raise
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}; free some space on the disk, or mend what is wrong, "
            "and run the same command again: finished shards are kept"
        ) from None
