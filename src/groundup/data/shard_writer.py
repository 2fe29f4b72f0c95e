"""Writer of token shards; a kill at any moment leaves a complete or a resumable data set.

All shards but the last have exactly ``shard_tokens`` tokens, so their boundaries depend on the tokens alone. A shard is
written under a temporary name, synced, renamed, and then entered in ``progress.json``. ``index.json`` is written last
and replaces it. The next process deletes data after the last entry, which a killed process left.

``progress.json`` also records the text that was read of each input. The next process reads the text from the beginning
and compares it, so a data set never begins with one text and ends with another.
"""

import hashlib
import io
import os
import shutil
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from groundup.data.document_pass import Sources
from groundup.data.index import (
    DOCUMENTS_FILE,
    FORMAT,
    INDEX_FILE,
    PROGRESS_FILE,
    PROGRESS_FORMAT,
    TOKEN_LENGTHS_FILE,
    TOKENIZER_FOLDER,
    clear,
    mask_name,
    own_files,
    read_progress,
    token_dtype,
    version_of,
    write_record,
)
from groundup.data.plan import ShardPlan
from groundup.errors import DataError, GroundupError
from groundup.system.files import file_sha256, open_regular, sync_directory, write_atomically
from groundup.tokenizer.tokenizer import Tokenizer
from groundup.version import VERSION as GROUNDUP_VERSION

_DOCUMENTS_HELD = 1 << 20
_TOKENS_HELD = 1 << 18
_READ_BYTES = 1 << 22


class ShardWriter:
    """Writer of a data set in ``folder``; it appends to the documents of an interrupted writer with the same plan.

        with ShardWriter(folder, plan, token_lengths) as writer:     # writer.documents exist already
            writer.add_documents(ids, ends)                          # some whole documents
            writer.add(ids); writer.add(more_ids); writer.end_document()
            index = writer.finish(tokenizer.save)

    Pass a document that an interrupted writer has begun again from its beginning; its existing tokens are skipped.

    Args:
        token_lengths: ``(vocab_size,)``, bytes of text of each id.
        sources: returns the record of each input up to a number of documents; None to record nothing.

    Attributes:
        documents, tokens: numbers added so far, including those of an interrupted writer.
        kept_sources: record of each input by an interrupted writer; None if not recorded.

    Raises:
        DataError: existing shards are damaged, an id is not below the vocabulary size, or the disk is full.
    """

    def __init__(
        self,
        folder: Path,
        plan: ShardPlan,
        token_lengths: NDArray[Any],
        sources: Callable[[int], Sources] | None = None,
    ):
        self.folder, self.plan, self._sources = folder, plan, sources
        self.documents = self.tokens = 0
        self._lengths = np.asarray(token_lengths)
        self._dtype = token_dtype(plan.vocab_size)
        self._shards: list[dict[str, Any]] = []
        self.kept_sources: Sources | None = None
        self._ends = array("Q")
        self._ends_hash = hashlib.sha256(bytes(8))
        self._already_there = 0  # tokens of the next document that an interrupted writer has written
        self._separator = np.array([plan.separator_id], np.uint32)
        self._shard: OpenShard | None = None
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / PROGRESS_FILE).exists():
                self._resume(read_progress(folder))
            else:
                clear(folder)
                write_atomically(folder / DOCUMENTS_FILE, bytes(8))
                self._save_progress()
            self._ends_file = (folder / DOCUMENTS_FILE).open("ab")

    def add_documents(self, ids: NDArray[Any], ends: NDArray[Any], counts: NDArray[np.uint8] | None = None) -> None:
        """Append whole documents.

        Args:
            ids: ``(N,)``, ids of all documents, separators included; must not change afterwards.
            ends: ``(documents,)``, end of each document in ``ids``.
            counts: ``(N,)``, 1 for ids that count for the loss; given if the plan has a mask.
        """
        begin = first = 0
        while first < len(ends):
            # As many documents as the shard has room for, but at least one: documents recorded as finished are in it.
            room = self.plan.shard_tokens - (self._shard.tokens if self._shard else 0)
            last = max(first + 1, int(np.searchsorted(ends, begin + room, side="right")))
            end = int(ends[last - 1])
            skipped = min(self._already_there, end - begin)
            before = self.tokens - begin - skipped
            self.add(ids[begin:end], None if counts is None else counts[begin:end])
            self._ends.frombytes((ends[first:last].astype("<u8") + np.uint64(before)).astype("=u8").tobytes())
            self._end_documents(last - first)
            begin, first = end, last

    def add(self, ids: NDArray[Any], counts: NDArray[np.uint8] | None = None) -> None:
        """Append ids of the current document; the arrays must not change afterwards."""
        assert (counts is not None) == self.plan.has_mask
        known = min(self._already_there, len(ids))
        if known:
            if not np.array_equal(ids[:known], self._written(self.tokens - self._already_there, known)):
                raise other_text(self.folder)
            self._already_there -= known
        place = known
        while place < len(ids):
            if self._shard is not None and self._shard.tokens == self.plan.shard_tokens:
                self._close_shard()
            if self._shard is None:
                path = self.folder / f"shard-{len(self._shards):05d}.bin"
                self._shard = OpenShard(path, self.plan.vocab_size, self._lengths, has_mask=self.plan.has_mask)
            end = min(place + self.plan.shard_tokens - self._shard.tokens, len(ids))
            self._shard.add(ids[place:end], None if counts is None else counts[place:end])
            self.tokens += end - place
            place = end

    def end_document(self) -> None:
        """Close the current document with the separator."""
        self.add(self._separator)
        self._ends.append(self.tokens)
        self._end_documents(1)

    def _end_documents(self, count: int) -> None:
        self.documents += count
        if len(self._ends) >= _DOCUMENTS_HELD:
            with disk_errors(self.folder / DOCUMENTS_FILE):
                self._save_ends()

    def finish(self, save_tokenizer: Callable[[Path], object], **totals: Any) -> dict[str, Any]:
        """Close the last shard and complete the data set; return its index.

        Args:
            save_tokenizer: writes the tokenizer into a folder.
            totals: further entries of the index.

        Raises:
            DataError: no document was written, or the disk is full.
        """
        if not self.documents:
            self.close()
            clear(self.folder)
            raise DataError("the inputs contain no text, only empty documents; expected at least one byte of text")
        with disk_errors(self.folder):
            self._close_shard()
            self.close()
            write_atomically(self.folder / TOKEN_LENGTHS_FILE, token_lengths_file(self._lengths))
            shutil.rmtree(self.folder / TOKENIZER_FOLDER, ignore_errors=True)
            save_tokenizer(self.folder / TOKENIZER_FOLDER)
            index = self._index(totals)
            write_record(self.folder / INDEX_FILE, index)
            (self.folder / PROGRESS_FILE).unlink()
        return index

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        # What the user can mend is told, and leaves nothing behind where nothing was finished.
        if kind is not None and issubclass(kind, GroundupError) and not self._shards:
            clear(self.folder)

    def close(self) -> None:
        """Close the files. Tokens outside a finished shard are lost; the next writer writes them again."""
        for file in (self._ends_file, self._shard):
            # On a full disk close() fails as write() did, and that error is already being raised.
            with suppress(OSError):
                if file is not None:
                    file.close()

    def _close_shard(self) -> None:
        if self._shard is None:
            return
        entry = self._shard.complete()
        self._shard.put_in_place()
        self._shards.append(entry)
        self._shard = None
        with disk_errors(self.folder / DOCUMENTS_FILE):
            self._save_ends()
            sync(self._ends_file)
            self._save_progress()

    def _save_ends(self) -> None:
        ends = np.array(self._ends, "<u8")
        self._ends_file.write(ends.data)
        self._ends_hash.update(ends.data)
        del self._ends[:]

    def _save_progress(self) -> None:
        version = version_of(has_mask=self.plan.has_mask)
        record = {"format": PROGRESS_FORMAT, "version": version, "groundup": GROUNDUP_VERSION, **self.plan.record()}
        record |= {"documents": self.documents, "documents_sha256": self._ends_hash.hexdigest()}
        if self._sources is not None:
            record["read"] = self._sources(self.documents)
        write_record(self.folder / PROGRESS_FILE, record | {"shards": self._shards})

    def _resume(self, progress: dict[str, Any]) -> None:
        """Continue after the finished shards, if their hashes match, and delete everything written after them."""
        documents = self.folder / DOCUMENTS_FILE
        files = [file for shard in progress["shards"] for file in (shard, shard.get("mask")) if file]
        whole = {self.folder / file["file"]: file["sha256"] for file in files}
        damaged = [path for path, digest in whole.items() if not path.is_file() or file_sha256(path) != digest]
        self._shards = progress["shards"]
        self.documents = progress["documents"]
        self.tokens = sum(shard["tokens"] for shard in self._shards)
        self.kept_sources = progress.get("read")
        if damaged or not self._take_ends(documents, progress.get("documents_sha256")):
            raise DataError(
                f"{(damaged or [documents])[0]} has changed since the interruption; restore it, or start over with "
                "--overwrite"
            )
        kept = {PROGRESS_FILE, DOCUMENTS_FILE, TOKENIZER_FOLDER, *(file["file"] for file in files)}
        for path in own_files(self.folder):
            if path.name not in kept:
                path.unlink()
        os.truncate(documents, 8 * (self.documents + 1))

    def _take_ends(self, path: Path, sha256: str | None) -> bool:
        """Read the ends of the finished documents; return whether they are what was written."""
        if not path.is_file():
            return False
        self._ends_hash, left, last = hashlib.sha256(), 8 * (self.documents + 1), b""
        with open_regular(path) as file:  # read, not mapped: a file that is cut off meanwhile would end the process
            while left and (chunk := file.read(min(left, _READ_BYTES))):
                self._ends_hash.update(chunk)
                left, last = left - len(chunk), chunk[-8:]
        if left:
            return False
        self._already_there = self.tokens - int.from_bytes(last, "little")
        return self._already_there >= 0 and sha256 in (None, self._ends_hash.hexdigest())

    def _written(self, start: int, count: int) -> NDArray[Any]:
        """Ids that an interrupted writer has written."""
        parts = []
        while count:
            shard, offset = divmod(start, self.plan.shard_tokens)
            taken = min(count, self.plan.shard_tokens - offset)
            path = self.folder / self._shards[shard]["file"]
            parts.append(np.fromfile(path, self._dtype, taken, offset=offset * self._dtype.itemsize))
            start, count = start + taken, count - taken
        return np.concatenate(parts)

    def _index(self, totals: dict[str, int]) -> dict[str, Any]:
        documents = self.folder / DOCUMENTS_FILE
        if file_sha256(documents) != self._ends_hash.hexdigest():
            raise DataError(
                f"{documents} was changed by another program while it was written; encode again with --overwrite"
            )
        files = {
            f"{Path(name).stem}_file": {"file": name, "sha256": file_sha256(self.folder / name)}
            for name in (DOCUMENTS_FILE, TOKEN_LENGTHS_FILE)
        }
        return {
            "format": FORMAT,
            "version": version_of(has_mask=self.plan.has_mask),
            "dtype": self._dtype.name,
            "tokens": self.tokens,
            "bytes": sum(shard["bytes"] for shard in self._shards),
            "documents": self.documents,
            **({"counted": sum(shard["mask"]["counted"] for shard in self._shards)} if self.plan.has_mask else {}),
            **self.plan.record(),
            **totals,
            **files,
            "tokenizer_files": tokenizer_files(self.folder),
            "groundup": GROUNDUP_VERSION,
            "shards": self._shards,
        }


def tokenizer_files(folder: Path) -> list[dict[str, str]]:
    """Name and SHA-256 of each file of the tokenizer of a data set."""
    paths = sorted((folder / TOKENIZER_FOLDER).iterdir())
    return [{"file": path.name, "sha256": file_sha256(path)} for path in paths if path.is_file()]


def text_lengths(tokenizer: Tokenizer, separator_id: int | None) -> NDArray[np.uint32 | np.int32]:
    """Bytes of text of each id, ``(vocab_size,)``.

    A tokenizer may put a space before a document. The space counts in the first token, although the text lacks it. The
    separator then counts -1 bytes to correct the sum, and the array is int32.
    """
    lengths = np.array(tokenizer.token_lengths(), np.int64)
    if separator_id is not None:
        lengths[separator_id] -= tokenizer.prefix_length
    return lengths.astype(np.int32 if len(lengths) and lengths.min() < 0 else np.uint32)


def token_lengths_file(token_lengths: NDArray[Any]) -> bytes:
    """Content of ``token_lengths.npy``."""
    file = io.BytesIO()
    np.save(file, token_lengths)
    return file.getvalue()


def other_text(folder: Path, name: str = "") -> DataError:
    """The error of an encoding whose text has changed since the interruption."""
    which = f"{name} is" if name else "the inputs are"
    return DataError(
        f"{which} not what {folder} was begun with: the text of the documents encoded before the interruption has "
        "changed; restore the text, choose another folder, or start over with --overwrite"
    )


class OpenShard:
    """A shard file that is being written, and its mask. Their names end in ``.part`` until they are complete.

    Args:
        path: final path of the shard.
        vocab_size: upper bound of the ids, exclusive.
        token_lengths: ``(vocab_size,)``, bytes of text of each id.
        has_mask: also write which tokens count for the loss.
    """

    def __init__(self, path: Path, vocab_size: int, token_lengths: NDArray[Any], *, has_mask: bool = False):
        self.path, self.tokens = path, 0
        self._vocab_size, self._lengths = vocab_size, token_lengths
        self._held: list[NDArray[Any]] = []
        self._held_counts: list[NDArray[np.uint8]] = []
        self._held_tokens = self._text_bytes = self._counted = 0
        self._hash, self._mask_hash = hashlib.sha256(), hashlib.sha256()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="shard-writer")
        self._writing: Future[None] | None = None
        self._paths = [path, path.with_name(mask_name(path.name))] if has_mask else [path]
        self._files: list[BinaryIO] = []
        with disk_errors(path):
            for target in self._paths:
                self._files.append(_temporary(target).open("wb"))

    def add(self, ids: NDArray[Any], counts: NDArray[np.uint8] | None = None) -> None:
        """Append ids, and which of them count for the loss; the arrays must not change afterwards."""
        # Documents are short, and each step of a write costs more than a document, so they are written together.
        self._held.append(ids)
        if counts is not None:
            self._held_counts.append(counts)
        self._held_tokens += len(ids)
        self.tokens += len(ids)
        if self._held_tokens >= _TOKENS_HELD:
            self._write()

    def complete(self) -> dict[str, Any]:
        """Write and sync all ids, under the temporary name; return the shard's entry in the index."""
        self._write()
        self._wait()
        self._writer.shutdown()
        with disk_errors(self.path):
            for file in self._files:
                sync(file)
                file.close()
        digest = self._hash.hexdigest()
        entry = {"file": self.path.name, "tokens": self.tokens, "bytes": self._text_bytes, "sha256": digest}
        if len(self._paths) == 1:
            return entry
        mask = {"file": self._paths[1].name, "counted": self._counted, "sha256": self._mask_hash.hexdigest()}
        return entry | {"mask": mask}

    def put_in_place(self) -> None:
        """Rename the complete shard and its mask to their final names, and replace existing files."""
        with disk_errors(self.path):
            for path in self._paths:
                os.replace(_temporary(path), path)
            sync_directory(self.path.parent)

    def close(self) -> None:
        """Close the file, complete or not."""
        with suppress(DataError):  # complete() has raised it; a shard that is not complete is discarded
            self._wait()
        self._writer.shutdown()
        for file in self._files:
            file.close()

    def discard(self) -> None:
        """Close and delete the files."""
        self.close()
        for path in self._paths:
            _temporary(path).unlink(missing_ok=True)

    def _write(self) -> None:
        """Start to write the held ids in another thread, in parallel with the encoding of the next text."""
        if not self._held:
            return
        self._wait()
        self._writing = self._writer.submit(self._write_now, self._held, self._held_counts)
        self._held, self._held_counts, self._held_tokens = [], [], 0

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write_now(self, held: list[NDArray[Any]], counts: list[NDArray[np.uint8]]) -> None:
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
        with disk_errors(self.path):
            self._files[0].write(data)
            if counts:
                mask = np.concatenate(counts)
                self._counted += int(mask.sum())
                self._mask_hash.update(mask.data)
                self._files[1].write(mask.data)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def sync(file: BinaryIO) -> None:
    """Flush and fsync a file."""
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a DataError that names the file."""
    try:
        yield
    except OSError as error:
        if isinstance(error, GroundupError):
            raise
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}; free some space on the disk, or fix the fault, and "
            "run the same command again: finished shards are kept"
        ) from None
