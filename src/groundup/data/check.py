"""Check of a data set: files on disk against ``index.json``."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from groundup.data.index import (
    DOCUMENTS_FILE,
    ENCODE_AGAIN,
    INDEX_FILE,
    MAKE_AGAIN,
    TOKEN_LENGTHS_FILE,
    TOKENIZER_FOLDER,
    check_size,
    expected_sizes,
    load_npy,
    map_array,
    read_index,
    token_dtype,
)
from groundup.display.progress import Update
from groundup.errors import DataError, GroundupError
from groundup.system.files import file_sha256

_BLOCK = 1 << 22


class Fault(NamedTuple):
    """A damaged or missing file of a data set."""

    file: str
    """Name within the folder; ``tokenizer`` for a file of the tokenizer."""
    reason: str
    """The whole error message."""


def check_data_set(path: Path, progress: Update | None = None) -> list[Fault]:
    """Every fault of a folder of token shards; reads all files. Empty if the data set is intact.

    Raises:
        DataError: the folder has no finished data set, or its index is damaged.
    """
    index = read_index(path)
    return [*content_faults(path, index, progress), *tokenizer_faults(path, index)]


def size_faults(folder: Path, index: dict[str, Any]) -> list[Fault]:
    """Faults found without reading the shards: sizes of all files, and content of the small ones."""
    found = [fault for name, size in expected_sizes(index) if (fault := _size_fault(folder / name, size))]
    found += hash_fault(folder / TOKEN_LENGTHS_FILE, index["token_lengths_file"]["sha256"])
    place = folder / TOKENIZER_FOLDER
    if not place.is_dir():
        found.append(Fault(TOKENIZER_FOLDER, f"{place} is missing; restore it, or {MAKE_AGAIN}"))
        return found
    for entry in index.get("tokenizer_files") or ():
        faults = hash_fault(place / entry["file"], entry["sha256"])
        found += [fault._replace(file=TOKENIZER_FOLDER) for fault in faults]
    return found


def content_faults(folder: Path, index: dict[str, Any], progress: Update | None = None) -> Iterator[Fault]:
    """Faults of all files, each read once: size, SHA-256, token ids, bytes of text and document ends."""
    faults = size_faults(folder, index)
    yield from faults
    damaged = {fault.file for fault in faults}
    offsets = None
    if DOCUMENTS_FILE not in damaged:
        offsets = map_array(folder / DOCUMENTS_FILE, "<u8")
        faults = hash_fault(folder / DOCUMENTS_FILE, index["documents_file"]["sha256"])
        faults = faults or list(_offset_faults(folder, offsets, index["tokens"]))
        yield from faults
        offsets = None if faults else offsets
    lengths = None
    if TOKEN_LENGTHS_FILE not in damaged:
        try:
            lengths = load_npy(folder / TOKEN_LENGTHS_FILE, "uint32 lengths, one a token id")
        except DataError as error:  # it changed since size_faults()
            yield Fault(TOKEN_LENGTHS_FILE, str(error))
        if lengths is not None and lengths.shape != (index["vocab_size"],):
            reason = f"has shape {lengths.shape}, but vocab_size is {index['vocab_size']}; {ENCODE_AGAIN}"
            yield Fault(TOKEN_LENGTHS_FILE, f"{folder / TOKEN_LENGTHS_FILE} {reason}")
            lengths = None
    start, total = 0, sum(size for name, size in expected_sizes(index) if name != DOCUMENTS_FILE)
    itemsize = token_dtype(index["vocab_size"]).itemsize
    for entry in index["shards"]:
        if entry["file"] not in damaged:
            shard = _ShardCheck(folder, index, entry, start, lengths, offsets)
            yield from shard.faults(_after(start * itemsize, total, progress))
        start += entry["tokens"]
    for entry in index["shards"]:
        if "mask" in entry and entry["mask"]["file"] not in damaged:
            yield from _mask_faults(folder, entry["mask"])


def tokenizer_faults(folder: Path, index: dict[str, Any]) -> Iterator[Fault]:
    """Faults of the tokenizer's copy: it does not load, or is not the tokenizer of the data set."""
    from groundup.tokenizer import Tokenizer

    place = folder / TOKENIZER_FOLDER
    try:
        tokenizer = Tokenizer.load(place)
    except GroundupError as error:
        yield Fault(TOKENIZER_FOLDER, f"{place} cannot be loaded: {error}")
        return
    if tokenizer.sha256 != index["tokenizer_sha256"]:
        yield Fault(
            TOKENIZER_FOLDER,
            f"{place} has SHA-256 {tokenizer.sha256[:12]}…, but the data set was encoded with "
            f"{index['tokenizer_sha256'][:12]}…; restore that tokenizer",
        )
    elif tokenizer.vocab_size != index["vocab_size"]:
        yield Fault(
            INDEX_FILE,
            f"{folder / INDEX_FILE} says vocab_size = {index['vocab_size']}, but its tokenizer has "
            f"{tokenizer.vocab_size}; {ENCODE_AGAIN}",
        )


class _ShardCheck:
    """Check of one shard against its entry in the index.

    Args:
        start: position of its first token in the data set.
        lengths: bytes of text of each id; None if not known.
        offsets: start of each document in tokens; None if not known.
    """

    def __init__(
        self,
        folder: Path,
        index: dict[str, Any],
        entry: dict[str, Any],
        start: int,
        lengths: NDArray[Any] | None,
        offsets: NDArray[Any] | None,
    ):
        self._path, self._entry, self._start = folder / entry["file"], entry, start
        self._lengths, self._offsets = lengths, offsets
        self._vocab_size = index["vocab_size"]
        self._separator = (index.get("separator") or {}).get("id")

    def faults(self, progress: Callable[[int], object]) -> Iterator[Fault]:
        """Faults of the shard, which is read once. A wrong hash is the only one reported: it explains the others."""
        shard = map_array(self._path, token_dtype(self._vocab_size))
        digest, text_bytes, found = hashlib.sha256(), 0, dict[str, str]()
        for begin in range(0, len(shard), _BLOCK):
            block = shard[begin : begin + _BLOCK]
            digest.update(block.data)
            wrong = np.flatnonzero(block >= self._vocab_size)
            if len(wrong):
                found.setdefault("id", self._wrong_id(begin + int(wrong[0]), block[wrong[0]]))
            elif self._lengths is not None:
                text_bytes += int(np.take(self._lengths, block).sum(dtype=np.int64))
            if message := self._unended_document(begin, block):
                found.setdefault("end", message)
            progress((begin + len(block)) * shard.itemsize)
        if not found and self._lengths is not None and text_bytes != self._entry["bytes"]:
            found["bytes"] = (
                f"{self._path}: its tokens decode to {text_bytes} bytes, but {INDEX_FILE} says "
                f"{self._entry['bytes']}; {ENCODE_AGAIN}"
            )
        if digest.hexdigest() != self._entry["sha256"]:
            found = {"hash": _changed(self._path, digest.hexdigest(), self._entry["sha256"])}
        yield from (Fault(self._path.name, reason) for reason in found.values())

    def _wrong_id(self, place: int, token: int) -> str:
        return (
            f"{self._path.parent}: token {self._start + place} has the id {token}, but vocab_size is "
            f"{self._vocab_size}; the data was encoded with another tokenizer or is damaged: encode the text again"
        )

    def _unended_document(self, begin: int, block: NDArray[Any]) -> str | None:
        if self._offsets is None or self._separator is None:
            return None
        first = self._start + begin
        low, high = np.searchsorted(self._offsets, [first + 1, first + len(block) + 1])
        ends = self._offsets[low:high].astype(np.int64) - 1 - first
        wrong = np.flatnonzero(block[ends] != self._separator)
        if not len(wrong):
            return None
        token = block[ends[wrong[0]]]
        return (
            f"{self._path}: document {int(low) + int(wrong[0]) - 1} ends in the id {token}, not in the separator "
            f"{self._separator}; {DOCUMENTS_FILE} belongs to another data set or is damaged: {ENCODE_AGAIN}"
        )


def _mask_faults(folder: Path, entry: dict[str, Any]) -> Iterator[Fault]:
    path = folder / entry["file"]
    if faults := hash_fault(path, entry["sha256"]):
        yield from faults
        return
    mask = map_array(path, "u1")
    if len(wrong := np.flatnonzero(mask > 1)):
        reason = f"has {mask[wrong[0]]} for token {int(wrong[0])}; expected 0 or 1"
    elif (counted := int(mask.sum(dtype=np.int64))) != entry["counted"]:
        reason = f"counts {counted} tokens, but {INDEX_FILE} says {entry['counted']}"
    else:
        return
    yield Fault(entry["file"], f"{path} {reason}; {ENCODE_AGAIN}")


def _after(begin: int, total: int, progress: Update | None) -> Callable[[int], object]:
    return lambda done: progress("checking", begin + done, total) if progress else None


def _offset_faults(folder: Path, offsets: NDArray[Any], tokens: int) -> Iterator[Fault]:
    reason = ""
    if offsets[0] != 0 or offsets[-1] != tokens:
        reason = f"goes from token {offsets[0]} to {offsets[-1]}, but the data set has 0 to {tokens}"
    else:
        for begin in range(0, len(offsets) - 1, _BLOCK):
            block = offsets[begin : begin + _BLOCK + 1]
            if len(wrong := np.flatnonzero(block[1:] <= block[:-1])):
                reason = f"has document {begin + int(wrong[0])} end where it begins, or before"
                break
    if reason:
        yield Fault(DOCUMENTS_FILE, f"{folder / DOCUMENTS_FILE} {reason}; {ENCODE_AGAIN}")


def _size_fault(path: Path, size: int) -> Fault | None:
    try:
        check_size(path, size)
    except DataError as error:
        return Fault(path.name, str(error))
    return None


def hash_fault(path: Path, expected: str) -> list[Fault]:
    """Fault of a file that is missing or has another SHA-256 than expected; empty without one."""
    if not path.is_file():
        return [Fault(path.name, f"{path} is missing, but {INDEX_FILE} names it; restore it, or {MAKE_AGAIN}")]
    seen = file_sha256(path)
    return [] if seen == expected else [Fault(path.name, _changed(path, seen, expected))]


def _changed(path: Path, seen: str, expected: str) -> str:
    return (
        f"{path} has SHA-256 {seen[:12]}…, but {INDEX_FILE} says {expected[:12]}…; the file was changed: restore "
        f"it, or delete it and {MAKE_AGAIN}"
    )
