"""Files that are read a tensor, or some rows of one, at a time, so that memory does not grow with the file.

Everything that is read is hostile until its header has been checked. safetensors checks its own headers (offsets
without gaps or overlaps, sizes that match shapes); the bytes are then read with plain reads, since pages of a mapped
file would count as memory of the process.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from groundup.errors import CheckpointError
from groundup.system.files import open_regular

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Types of numbers by their names in safetensors files."""


class OpenFile:
    """A file that is open as long as this object lives: the same one, even if another one gets its name.

    Raises:
        OSError: it is missing, unreadable, or a folder, FIFO, socket or device.
    """

    def __init__(self, path: Path):
        self.path = path
        with open_regular(path) as opened:
            self.descriptor = os.dup(opened.fileno())
        weakref.finalize(self, os.close, self.descriptor)

    @property
    def again(self) -> str | Path:
        """A path by which other code opens the same file, if the system has one."""
        place = f"/dev/fd/{self.descriptor}"
        return place if os.path.exists(place) else self.path

    def read_into(self, view: memoryview, begin: int) -> None:
        """Fill memory with the bytes from a place on.

        Raises:
            CheckpointError: the file ends before that.
        """
        done = 0
        while done < len(view):
            count = os.preadv(self.descriptor, [view[done:]], begin + done)
            if not count:
                raise CheckpointError(f"{self.path} ends inside a tensor: it was cut off while it was read")
            done += count

    def read(self, shape: Sequence[int], dtype: torch.dtype, begin: int) -> Tensor:
        """Read a tensor from a place on.

        Raises:
            CheckpointError: the file ends before it does.
        """
        content = torch.empty(math.prod(shape), dtype=dtype)
        self.read_into(as_bytes(content), begin)
        return content.view(*shape)

    def sha256(self) -> str:
        """SHA-256 of the content, in hex."""
        digest, begin = hashlib.sha256(), 0
        while content := os.pread(self.descriptor, 2**18, begin):
            digest.update(content)
            begin += len(content)
        return digest.hexdigest()


class Entry(NamedTuple):
    """A tensor of a safetensors file."""

    dtype: str
    """Its name in the file; one that :data:`DTYPES` may not have."""
    shape: tuple[int, ...]
    begin: int
    """Its first byte."""


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file by name, in the order of their bytes. Each is read anew when it is asked for.

    Raises:
        CheckpointError: the file is truncated, missing or not of this format.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self.file = OpenFile(path)  # a FIFO would wait for a writer
            with safe_open(self.file.again, "pt") as checked:
                names = set(checked.keys())
            length = struct.unpack("<Q", os.pread(self.file.descriptor, 8, 0))[0]
            header = json.loads(os.pread(self.file.descriptor, length, 8))
            found = {
                name: Entry(
                    header[name]["dtype"], tuple(header[name]["shape"]), 8 + length + header[name]["data_offsets"][0]
                )
                for name in names
            }
        except (OSError, ValueError, KeyError, TypeError, struct.error, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{path} is truncated or not a safetensors file: {_first_line(error)}") from None
        self.entries = dict(sorted(found.items(), key=lambda item: (item[1].begin, item[0])))

    def __getitem__(self, name: str) -> Tensor:
        entry = self.entries[name]
        return self.file.read(entry.shape, self._dtype(name), entry.begin)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def shapes(self) -> dict[str, Tensor]:
        """Tensors without content of the same shapes and dtypes."""
        return {
            name: torch.empty(entry.shape, dtype=self._dtype(name), device="meta")
            for name, entry in self.entries.items()
        }

    def fill(self, name: str, out: Tensor) -> None:
        """Read a tensor into another one of its shape, of any dtype and on any device."""
        entry = self.entries[name]
        if out.device.type == "cpu" and out.dtype == self._dtype(name) and out.is_contiguous():
            self.file.read_into(as_bytes(out), entry.begin)
        else:
            out.copy_(self[name])

    def _dtype(self, name: str) -> torch.dtype:
        found = self.entries[name].dtype
        if found not in DTYPES:
            raise CheckpointError(f"{self.path}: {name} is of dtype {found}; read are {', '.join(DTYPES)}")
        return DTYPES[found]


def as_bytes(tensor: Tensor) -> memoryview:
    """The elements of a tensor, in C order; the tensor's own memory if they lie so."""
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
