"""Token shards: tokenized text on disk, read by memory map.

Files of a data set:

    shard-00000.bin …    token ids, little-endian uint16 (vocab_size <= 65,536) or uint32; no header
    shard-00000.mask.bin …   one byte for each token: 1 if it counts for the loss as a target, else 0; only if some
                         tokens do not count, as in conversations
    documents.bin        little-endian uint64: start of each document in tokens, then the total number of tokens;
                         document i is tokens[offset[i] : offset[i + 1]], and its last token is the separator
    token_lengths.npy    uint32 (vocab_size,): bytes of text of each id; 0 for special tokens. If the tokenizer puts a
                         space before documents: int32, with -1 for the separator, which subtracts that space
    tokenizer/           the tokenizer of the ids
    index.json           content with sizes and SHA-256, and origin; written last, so a folder with it is complete
    inputs.json          size, modification time and inode of the inputs, to recognize them unread; may be deleted

Bytes of text are stored because bits per byte, unlike loss per token, can be compared between tokenizers. They are the
sum of ``token_lengths`` over tokens. Separators and special tokens inside a text count 0.

``TokenShards`` also opens a one-dimensional ``.npy`` array of ids, which has no byte counts, documents or tokenizer.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from groundup.data.check import content_faults, hash_fault
from groundup.data.index import (
    DOCUMENTS_FILE,
    ENCODE_AGAIN,
    INDEX_FILE,
    TOKEN_LENGTHS_FILE,
    TOKENIZER_FOLDER,
    check_size,
    load_npy,
    map_array,
    read_index,
)
from groundup.data.index import token_dtype as token_dtype
from groundup.errors import ConfigError, DataError, FileMissingError
from groundup.system.files import file_sha256
from groundup.text.chat.templates import stored_template

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer

_BLOCK = 1 << 22


class TokenShards:
    """A read-only sequence of token ids over the shards of a folder, or over one ``.npy`` array.

    Open it with ``TokenShards.open``. Only the requested parts are read into memory.

    Attributes:
        path: the folder, or the ``.npy`` file.
        index: the content of ``index.json``; empty for ``.npy``.
        dtype: dtype of the ids on disk.
        vocab_size: vocabulary size of the tokenizer; None for ``.npy``.
        tokenizer_sha256: SHA-256 of the tokenizer; None for ``.npy``.
        total_bytes: bytes of text; None for ``.npy``.
        counted: number of tokens that count for the loss; None if all do.
    """

    def __init__(
        self,
        path: Path,
        index: dict[str, Any],
        shards: list[NDArray[Any]],
        masks: list[NDArray[np.uint8]] | None = None,
    ):
        self.path, self.index, self._shards, self._masks = path, index, shards, masks
        self.counted: int | None = index.get("counted")
        self.dtype: np.dtype[Any] = shards[0].dtype
        self.vocab_size: int | None = index.get("vocab_size")
        self.tokenizer_sha256: str | None = index.get("tokenizer_sha256")
        self.total_bytes: int | None = index.get("bytes")
        # _starts[i] is the position of shard i's first token; the last entry is the number of tokens.
        self._starts = list(accumulate(map(len, shards), initial=0))

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> "TokenShards":
        """Open a folder of shards or a ``.npy`` file, and check the sizes of all files.

        Args:
            verify: also read all files once, and check SHA-256, ids below ``vocab_size`` and byte counts.

        Raises:
            FileMissingError: ``path`` does not exist.
            DataError: not a token data set, an unfinished or damaged one, or one without tokens.
        """
        path = Path(path)
        if not os.path.exists(path):  # False, not an error, for a name that is too long
            raise FileMissingError(f"{path} does not exist; expected a folder of token shards or a .npy file of tokens")
        if path.is_dir():
            index = read_index(path)
            arrays = [_map_shard(path, index, shard) for shard in index["shards"]]
            masks = [_map_mask(path, shard) for shard in index["shards"] if "mask" in shard]
            shards = cls(path, index, arrays, masks or None)
            check_size(path / DOCUMENTS_FILE, 8 * (index["documents"] + 1))
        else:
            shards = cls(path, {}, [_map_npy(path)])
        if verify:
            shards.verify()
        return shards

    def __len__(self) -> int:
        return self._starts[-1]

    def __repr__(self) -> str:
        return f"TokenShards({str(self.path)!r}: {len(self):,} tokens, {self.dtype}, {len(self._shards)} files)"

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """A copy of the ids from ``start`` to ``start + length``: int64 ``(length,)``; may cross shards.

        Raises:
            DataError: the window is not within the data set.
        """
        return self._read(self._shards, start, length)

    def _read(self, arrays: list[NDArray[Any]], start: int, length: int) -> NDArray[np.int64]:
        self._check_window(start, start, length)
        out = np.empty(length, np.int64)
        filled, shard = 0, bisect_right(self._starts, start) - 1
        while filled < length:
            part = arrays[shard][start + filled - self._starts[shard] :][: length - filled]
            out[filled : filled + len(part)] = part
            filled, shard = filled + len(part), shard + 1
        return out

    def gather(self, starts: NDArray[np.integer[Any]], length: int) -> NDArray[np.int64]:
        """Many windows at once: row i is ``read(starts[i], length)``.

        Shapes: ``starts (n,)`` -> int64 ``(n, length)``.

        Raises:
            DataError: a window is not within the data set.
        """
        return self._gather(self._shards, starts, length)

    def gather_counts(self, starts: NDArray[np.integer[Any]], length: int) -> NDArray[np.bool_]:
        """Which tokens of these windows count for the loss: bool ``(n, length)``. Arguments and errors as `gather`."""
        if self._masks is None:
            return np.ones((len(starts), length), np.bool_)
        return self._gather(self._masks, starts, length) != 0

    def _gather(self, arrays: list[NDArray[Any]], starts: NDArray[np.integer[Any]], length: int) -> NDArray[np.int64]:
        starts = np.asarray(starts, np.int64)
        out = np.empty((len(starts), length), np.int64)
        if not len(starts):
            return out
        self._check_window(int(starts.min()), int(starts.max()), length)
        if not length:
            return out
        first = np.searchsorted(self._starts, starts, side="right") - 1
        last = np.searchsorted(self._starts, starts + length - 1, side="right") - 1
        for shard in np.unique(first):
            rows = np.flatnonzero((first == shard) & (last == shard))
            if len(rows):
                windows = np.lib.stride_tricks.sliding_window_view(arrays[shard], length)
                out[rows] = windows[starts[rows] - self._starts[shard]]
        for row in np.flatnonzero(first != last):
            out[row] = self._read(arrays, int(starts[row]), length)
        return out

    @property
    def has_mask(self) -> bool:
        """Whether some tokens do not count for the loss."""
        return self._masks is not None

    @property
    def bytes_per_token(self) -> float | None:
        """Bytes of text per token, where separators count as tokens; None for ``.npy``."""
        return None if self.total_bytes is None else self.total_bytes / len(self)

    @cached_property
    def token_lengths(self) -> NDArray[Any] | None:
        """uint32 or int32 ``(vocab_size,)``: bytes of text of each id, 0 for special tokens; None for ``.npy``.

        The bytes of any window are ``token_lengths[window].sum()``.
        """
        if not self.index:
            return None
        path = self.path / TOKEN_LENGTHS_FILE
        self._check_hash(TOKEN_LENGTHS_FILE, "token_lengths_file")
        lengths = load_npy(path, "uint32 lengths, one a token id")
        if lengths.shape != (self.vocab_size,):
            raise DataError(f"{path} has shape {lengths.shape}, but vocab_size is {self.vocab_size}; {ENCODE_AGAIN}")
        return np.array(lengths)

    @cached_property
    def document_offsets(self) -> NDArray[np.uint64] | None:
        """uint64 ``(documents + 1,)``: start of each document in tokens, then ``len(self)``; None for ``.npy``."""
        if not self.index:
            return None
        self._check_hash(DOCUMENTS_FILE, "documents_file")
        return np.fromfile(self.path / DOCUMENTS_FILE, "<u8")

    def offsets_for(self, pack: Literal["stream", "documents"]) -> NDArray[np.uint64] | None:
        """``document_offsets`` where each sequence of a batch is to be a part of one document; else None.

        Raises:
            ConfigError: a ``.npy`` file, in which documents are not told apart.
        """
        if pack == "stream":
            return None
        if self.document_offsets is None:
            raise ConfigError(
                f"data.pack = {pack!r} needs to know where documents begin, but {self.path} is a bare array; give a "
                "folder of token shards, or data.pack = 'stream'"
            )
        return self.document_offsets

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the data set: that of ``index.json``, which contains that of every file; or of the ``.npy``."""
        return file_sha256(self.path / INDEX_FILE if self.index else self.path)

    def tokenizer(self) -> "Tokenizer":
        """The tokenizer of the ids.

        Raises:
            DataError: a ``.npy`` file, which has none.
            TokenizerError, FileMissingError: the copy in the folder is damaged or missing.
        """
        if not self.index:
            raise DataError(f"{self.path} is an array without a tokenizer; load the tokenizer that encoded it")
        from groundup.tokenizer import Tokenizer

        return Tokenizer.load(self.path / TOKENIZER_FOLDER)

    @property
    def chat_template(self) -> str | None:
        """The template that rendered the conversations, whose text is complete in itself; None for text.

        Raises:
            DataError: it cannot be read.
        """
        found = stored_template(self.path / TOKENIZER_FOLDER) if self.index else None
        return None if found is None else found.text

    def check_ids(self, vocab_size: int) -> None:
        """Check every id; reads all tokens once.

        Raises:
            DataError: an id is negative or not below ``vocab_size``; names the first one.
        """
        for position, block in self._blocks():
            wrong = np.flatnonzero((block < 0) | (block >= vocab_size))
            if len(wrong):
                raise DataError(
                    f"{self.path}: token {position + int(wrong[0])} has the id {block[wrong[0]]}, but vocab_size is "
                    f"{vocab_size}; the data was encoded with another tokenizer or is damaged: encode the text again"
                )

    def verify(self) -> None:
        """Check every file against the index; reads all files once. For ``.npy``, check for negative ids only.

        Raises:
            DataError: the first fault, with the file name.
        """
        if not self.index:
            return self.check_ids(1 << 63)
        for fault in content_faults(self.path, self.index):
            raise DataError(fault.reason)
        return None

    def _check_hash(self, name: str, entry: str) -> None:
        for fault in hash_fault(self.path / name, self.index[entry]["sha256"]):
            raise DataError(fault.reason)

    def _blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        for start, shard in zip(self._starts, self._shards, strict=False):
            for offset in range(0, len(shard), _BLOCK):
                yield start + offset, shard[offset : offset + _BLOCK]

    def _check_window(self, lowest: int, highest: int, length: int) -> None:
        if length < 0 or lowest < 0 or highest + length > len(self):
            seen = lowest if lowest < 0 else highest
            raise DataError(
                f"{self.path} has no window of {length} tokens at {seen}; "
                f"it has {len(self)} tokens: expected a start from 0 to {len(self) - length}"
            )


def _map_shard(folder: Path, index: dict[str, Any], entry: dict[str, Any]) -> NDArray[Any]:
    dtype = token_dtype(index["vocab_size"])
    path = folder / entry["file"]
    check_size(path, entry["tokens"] * dtype.itemsize)
    # A plain array over the map: slicing an np.memmap costs microseconds, and batches consist of slices.
    return np.asarray(map_array(path, dtype))


def _map_mask(folder: Path, entry: dict[str, Any]) -> NDArray[np.uint8]:
    path = folder / entry["mask"]["file"]
    check_size(path, entry["tokens"])
    return np.asarray(map_array(path, "u1"))


def _map_npy(path: Path) -> NDArray[Any]:
    tokens = load_npy(path, "a one-dimensional array of token ids")
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise DataError(
            f"{path} contains {tokens.dtype} of shape {tokens.shape}; expected integer token ids of shape (tokens,); "
            "flatten or convert it with numpy first"
        )
    if not len(tokens):
        raise DataError(f"{path} contains no tokens; encode a text that is not empty")
    return np.asarray(tokens)


@dataclass
class _Watched:
    path: Path
    inode: int
    size: int
    modified_ns: int
    sha256: str


class DataGuard:
    """Detector of shards that change while a run reads them.

    If a memory-mapped file is truncated, a read beyond its new end kills the process (SIGBUS). If it is overwritten,
    the training data changes silently. A file may be deleted or replaced: the map keeps the old one.

    Args:
        stores: the data sets that the run reads; None is ignored.
    """

    def __init__(self, *stores: TokenShards | None):
        self._files = [file for store in stores if store is not None for file in _watch(store)]

    def check(self) -> None:
        """Compare each file with its state when opened: one system call, and a hash if its modification time changed.

        Raises:
            DataError: a file was truncated or overwritten.
        """
        for file in self._files:
            try:
                now = file.path.stat()
            except OSError:
                continue
            if now.st_ino != file.inode:
                continue
            if now.st_size < file.size:
                raise DataError(
                    f"{file.path} was truncated during the run: {now.st_size} bytes, expected {file.size}; restore it "
                    f"and resume the run"
                )
            if now.st_mtime_ns != file.modified_ns:
                if file.sha256 != file_sha256(file.path):
                    raise DataError(f"{file.path} was overwritten during the run; restore it and resume the run")
                file.modified_ns = now.st_mtime_ns


def _watch(store: TokenShards) -> list[_Watched]:
    if store.index:
        entries = [file for shard in store.index["shards"] for file in (shard, shard.get("mask")) if file]
        files = [(store.path / entry["file"], entry["sha256"]) for entry in entries]
    else:
        files = [(store.path, store.sha256)]
    watched = []
    for path, sha256 in files:
        seen = path.stat()
        watched.append(_Watched(path, seen.st_ino, seen.st_size, seen.st_mtime_ns, sha256))
    return watched
