"""Tensors on disk, read and written a few rows at a time, so that memory does not grow with the model."""

from __future__ import annotations

import errno
import json
import math
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from groundup.errors import CheckpointError
from groundup.interop.families import Link
from groundup.system.files import file_sha256
from groundup.train.checkpoint.shards import read_shards, shard_shapes
from groundup.train.checkpoint.tensor_file import DTYPES, OpenFile, TensorFile, as_bytes

CHUNK_BYTES = 2**21
"""Bytes that are read, converted and written at once. Larger buffers are new pages each time: eight times slower."""
SHARD_BYTES = 5 * 10**9
"""Most bytes of a file of tensors, unless one tensor has more."""

_FLOATS = ("F64", "F32", "F16", "BF16")
_NAME_OF = {DTYPES[name]: name for name in _FLOATS}


class Place(NamedTuple):
    """Bytes of a file."""

    file: OpenFile
    begin: int
    size: int


class Weights(ABC):
    """Tensors by name, read some rows at a time."""

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]
    source: str
    """The file or folder, as errors name it."""

    @abstractmethod
    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Read some rows (entries of a vector) of a tensor.

        Raises:
            CheckpointError: the file has changed since it was opened.
        """

    def place(self, name: str) -> Place | None:
        """Where the bytes of a tensor lie on disk as they are read; None if they are computed."""
        return None

    def fill(self, name: str, out: Tensor) -> None:
        """Read a whole tensor into another one, of any dtype."""
        place = self.place(name)
        if place is not None and out.dtype == self.dtypes[name] and out.is_contiguous():
            place.file.read_into(as_bytes(out), place.begin)
            return
        start = 0
        for chunk in chunks(self, name):
            out[start : start + len(chunk)] = chunk
            start += len(chunk)

    def round_trip(self, name: str, rows: Tensor) -> Tensor:
        """Values as they are read back after they were written here."""
        return rows.to(self.dtypes[name]).to(rows.dtype)

    def tensor(self, name: str) -> Tensor:
        """Read a whole tensor."""
        return self.rows(name, 0, self.shapes[name][0])


class SafetensorsWeights(Weights):
    """Tensors of safetensors files.

    Raises:
        CheckpointError: a file is truncated or not of this format, a tensor has a dtype that is not read, or occurs in
            two files.
    """

    def __init__(self, files: Sequence[Path], source: str):
        self.source = source
        self.shapes, self.dtypes = {}, {}
        self._places: dict[str, tuple[OpenFile, int, int]] = {}
        for path in files:
            opened = _checked(TensorFile(path))
            for name, entry in opened.entries.items():
                if name in self._places:
                    raise CheckpointError(
                        f"{source} has {name} in {self._places[name][0].path.name} and in {path.name}"
                    )
                self.shapes[name], self.dtypes[name] = entry.shape, DTYPES[entry.dtype]
                row = self.dtypes[name].itemsize * math.prod(entry.shape[1:])
                self._places[name] = (opened.file, entry.begin, row)

    def place(self, name: str) -> Place:
        file, begin, _ = self._places[name]
        return Place(file, begin, tensor_bytes(self, name))

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        file, begin, row = self._places[name]
        return file.read((stop - start, *self.shapes[name][1:]), self.dtypes[name], begin + start * row)

    def sha256(self, path: Path) -> str:
        """SHA-256 of one of the files as it was opened; of any other file, as it is now."""
        opened = next((file for file, _, _ in self._places.values() if file.path == path), None)
        return file_sha256(path) if opened is None else opened.sha256()


def _checked(file: TensorFile) -> TensorFile:
    """Refuse a file that has other tensors than vectors and matrices of floating-point numbers."""
    for name, entry in file.entries.items():
        if entry.dtype not in _FLOATS:
            raise CheckpointError(
                f"{file.path}: {name} is of dtype {entry.dtype}; read are {', '.join(_FLOATS)}: {_CONVERT}"
            )
        if not entry.shape or 0 in entry.shape:
            raise CheckpointError(f"{file.path}: {name} has shape {list(entry.shape)}; expected a vector or a matrix")
    return file


_CONVERT = "convert it, or import the original model"


class ShardWeights(Weights):
    """Tensors of a checkpoint that every rank wrote its part of."""

    def __init__(self, folder: Path):
        self.source, self._folder = str(folder), folder
        found = shard_shapes(folder)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in found.items()}
        self._read: tuple[str, Tensor] | None = None

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        if self._read is None or self._read[0] != name:  # rows of a tensor are asked for one after the other
            self._read = None
            tensor = torch.empty(self.shapes[name], dtype=self.dtypes[name])
            read_shards(self._folder, {name: tensor})
            self._read = (name, tensor)
        return self._read[1][start:stop]


class LinkedWeights(Weights):
    """Tensors of another format under groundup's names, with groundup's order of rows.

    A folded tie (a link with a scale) is read as it is written: as two tensors.
    """

    def __init__(self, weights: Weights, links: Iterable[Link]):
        self._weights, self.source = weights, weights.source
        self._links: dict[str, Link] = {}
        for link in links:
            ours = "lm_head.weight" if link.ours in self._links else link.ours
            self._links[ours] = link
        self.shapes = {ours: link.shape for ours, link in self._links.items()}
        self.dtypes = {ours: weights.dtypes[link.theirs] for ours, link in self._links.items()}

    def place(self, name: str) -> Place | None:
        link = self._links[name]
        return None if link.head_size else self._weights.place(link.theirs)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        link = self._links[name]
        if not link.head_size:
            return self._weights.rows(link.theirs, start, stop)
        first, last = start // link.head_size * link.head_size, -(-stop // link.head_size) * link.head_size
        heads = link.to_ours(self._weights.rows(link.theirs, first, last))
        return heads[start - first : stop - first]

    def round_trip(self, name: str, rows: Tensor) -> Tensor:
        return self._weights.round_trip(self._links[name].theirs, rows)


class ExportedWeights(Weights):
    """groundup's tensors under the names of another format, with its order of rows and its dtype."""

    def __init__(self, weights: Weights, links: Iterable[Link], dtype: torch.dtype | None = None):
        self._weights, self.source = weights, weights.source
        self._links = {link.theirs: link for link in links}
        self.shapes = {theirs: link.shape for theirs, link in self._links.items()}
        self.dtypes = {theirs: dtype or weights.dtypes[link.ours] for theirs, link in self._links.items()}

    def place(self, name: str) -> Place | None:
        link = self._links[name]
        changed = link.head_size or link.scale != 1 or self.dtypes[name] != self._weights.dtypes[link.ours]
        return None if changed else self._weights.place(link.ours)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        link = self._links[name]
        step = link.head_size or 1
        first, last = start // step * step, -(-stop // step) * step
        rows = link.to_theirs(self._weights.rows(link.ours, first, last))[start - first : stop - first]
        return rounded(rows, self.dtypes[name])


def rounded(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows in a dtype.

    Raises:
        CheckpointError: a finite value is beyond the largest of float16.
    """
    if rows.dtype == dtype:
        return rows
    result = rows.to(dtype)
    if dtype == torch.float16 and not result.isfinite().all() and rows.isfinite().all():
        raise CheckpointError(
            f"a weight of {rows.abs().max():.3g} is beyond the largest float16, 65504; use --dtype bf16 or f32"
        )
    return result


def chunks(weights: Weights, name: str, *, multiple: int = 1) -> Iterator[Tensor]:
    """Read a tensor in chunks of rows.

    Args:
        multiple: of this many rows is every chunk but the last.
    """
    shape = weights.shapes[name]
    per_row = math.prod(shape[1:]) * weights.dtypes[name].itemsize
    step = max(1, CHUNK_BYTES // per_row // multiple) * multiple
    for start in range(0, shape[0], step):
        yield weights.rows(name, start, min(shape[0], start + step))


def write_safetensors(file: Path, weights: Weights, names: Sequence[str]) -> None:
    """Write tensors into one safetensors file, chunk by chunk; it is not yet flushed to the disk.

    Raises:
        OSError: the disk is full or not writable.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        begin, end = end, end + tensor_bytes(weights, name)
        dtype, shape = _NAME_OF[weights.dtypes[name]], list(weights.shapes[name])
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            write_tensor(opened, weights, name)


def write_tensor(opened: BinaryIO, weights: Weights, name: str) -> None:
    """Write the bytes of a tensor at the end of an open file; those that lie on disk already, within the kernel.

    Raises:
        OSError: the disk is full or not writable.
    """
    place = weights.place(name)
    if place is not None and _copied(place, opened):
        return
    for chunk in chunks(weights, name):
        opened.write(as_bytes(chunk))


def _copied(place: Place, opened: BinaryIO) -> bool:
    """Copy bytes of another file, if the system can do that by itself."""
    if not hasattr(os, "copy_file_range"):
        return False
    opened.flush()
    end, done = opened.tell(), 0
    while done < place.size:
        try:
            count = os.copy_file_range(
                place.file.descriptor, opened.fileno(), place.size - done, place.begin + done, end + done
            )
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO):
                raise
            return False  # another file system; what was copied is written again
        if not count:
            raise CheckpointError(f"{place.file.path} ends inside a tensor: it was cut off while it was read")
        done += count
    opened.seek(end + done)
    return True


def tensor_bytes(weights: Weights, name: str) -> int:
    """Bytes of a tensor."""
    return math.prod(weights.shapes[name]) * weights.dtypes[name].itemsize


def in_shards(weights: Weights, most: int = SHARD_BYTES) -> list[list[str]]:
    """Names of tensors, in order, in groups of at most ``most`` bytes."""
    groups: list[list[str]] = []
    size = 0
    for name in weights.shapes:
        added = tensor_bytes(weights, name)
        if not groups or size + added > most:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += added
    return groups


def check_tensors(weights: Weights, expected: Mapping[str, tuple[int, ...]], ignored: Iterable[str] = ()) -> None:
    """Refuse tensors that are not those of a config, naming the first that differs.

    Args:
        expected: names and shapes.
        ignored: names that may be there all the same.

    Raises:
        CheckpointError: one is missing, has another shape, or does not belong to the model.
    """
    for name, shape in expected.items():
        if name not in weights.shapes:
            raise CheckpointError(f"{weights.source} has no tensor {name}, which its config asks for")
        if weights.shapes[name] != shape:
            raise CheckpointError(
                f"{weights.source}: {name} has shape {weights.shapes[name]}; its config asks for {shape}"
            )
    if extra := sorted(weights.shapes.keys() - expected.keys() - set(ignored)):
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise CheckpointError(f"{weights.source} has the tensor {extra[0]}{more}, which its config does not ask for")
