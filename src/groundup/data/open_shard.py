"""One shard that is being written."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from groundup.data.index import token_dtype
from groundup.errors import DataError, GroundupError
from groundup.system.files import sync_directory

_TOKENS_HELD = 1 << 18


class OpenShard:
    """Token ids on their way to a shard file. It has another name, ``.part``, until it is complete.

    Args:
        path: where the shard goes.
        vocab_size: ids must be below it.
        token_lengths: ``(vocab_size,)``, bytes of text that each id stands for.
    """

    def __init__(self, path: Path, vocab_size: int, token_lengths: NDArray[Any]):
        self.path, self.tokens = path, 0
        self._vocab_size, self._lengths = vocab_size, token_lengths
        self._held: list[NDArray[Any]] = []
        self._held_tokens = self._text_bytes = 0
        self._hash = hashlib.sha256()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="shard-writer")
        self._writing: Future[None] | None = None
        self._temporary = path.with_name(path.name + ".part")
        with disk_errors(path):
            self._file = self._temporary.open("wb")

    def add(self, ids: NDArray[Any]) -> None:
        """Append ids; the array must not change afterwards."""
        # Documents are short, and every step below costs more than a document: they are taken together.
        self._held.append(ids)
        self._held_tokens += len(ids)
        self.tokens += len(ids)
        if self._held_tokens >= _TOKENS_HELD:
            self._write()

    def complete(self) -> dict[str, Any]:
        """Write all of it to the disk, still under the other name; returns its entry in the index."""
        self._write()
        self._wait()
        self._writer.shutdown()
        with disk_errors(self.path):
            sync(self._file)
            self._file.close()
        digest = self._hash.hexdigest()
        return {"file": self.path.name, "tokens": self.tokens, "bytes": self._text_bytes, "sha256": digest}

    def put_in_place(self) -> None:
        """Give the complete shard its name, in place of a file that has it."""
        with disk_errors(self.path):
            os.replace(self._temporary, self.path)
            sync_directory(self.path.parent)

    def close(self) -> None:
        """Let go of the file, complete or not."""
        with suppress(DataError):  # raised by the next wait, or on its way already
            self._wait()
        self._writer.shutdown()
        self._file.close()

    def discard(self) -> None:
        """Close and delete the file."""
        self.close()
        self._temporary.unlink(missing_ok=True)

    def _write(self) -> None:
        """Begin to write what is held, in another thread, so that the next text is encoded meanwhile."""
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
        with disk_errors(self.path):
            self._file.write(data)


def sync(file: BinaryIO) -> None:
    """Force what was written to the disk."""
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an error of the disk into a DataError that names the file."""
    try:
        yield
    except OSError as error:
        if isinstance(error, GroundupError):
            raise
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}; free some space on the disk, or mend what is wrong, "
            "and run the same command again: finished shards are kept"
        ) from None
