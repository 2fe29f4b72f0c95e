"""Tensors that every rank writes its own part of, and that any number of ranks reads (torch.distributed.checkpoint).

A folder of shards holds a safetensors file for each rank and ``index.json``, which says how long each one is, so that
one that is missing or cut off is noticed. Where in a tensor a part belongs stands in the header of its file. DCP's own
format would keep that in a pickle, so it is not used: nothing here is unpickled from disk.

What limits it: a rank has its part in memory once more while it writes it, every rank reads the headers of all files,
and the plan of who reads what goes through the first rank.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from groundup.errors import CheckpointError
from groundup.record import read_object
from groundup.system.files import sync_directory, write_atomically

MODEL_SHARDS = "model"
OPTIMIZER_SHARDS = "optimizer"
INDEX_FILE = "index.json"


def write_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write this rank's parts; all ranks must call it. What every rank has whole is written by one of them.

    Raises:
        CheckpointError: the disk is full or not writable, on any rank.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        with _maybe_alone() as alone:
            save(dict(tensors), storage_writer=writer, no_dist=alone)
    except CheckpointException as error:
        raise CheckpointError(
            f"cannot write {folder}: {_cause(error)}; earlier checkpoints are untouched: free some space and resume"
        ) from None


def write_index(folder: Path) -> None:
    """Note which files belong to the folder, once all are there."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}
    write_atomically(folder / INDEX_FILE, json.dumps(sizes, indent=1))
    sync_directory(folder)


def shard_shapes(folder: Path) -> dict[str, Tensor]:
    """The tensors that the shards make up, by name, on the device "meta".

    Raises:
        CheckpointError: files are missing, truncated or foreign.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    try:
        expected = read_object(folder / INDEX_FILE)
        for name, size in expected.items():
            if (found := (folder / name).stat().st_size) != size:
                raise CheckpointError(f"{folder / name} has {found} bytes, expected {size}; restore it")
        if strangers := {path.name for path in folder.glob("*.safetensors")} - expected.keys():
            raise CheckpointError(f"{folder} holds {min(strangers)}, which does not belong to it; remove it")
        metadata = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (OSError, ValueError, AttributeError, TypeError, KeyError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder} is truncated or not a folder of shards: {_first_line(error)}") from None
    return {
        name: torch.empty(tensor.size, dtype=tensor.properties.dtype, device="meta")  # type: ignore[union-attr]  # all are tensors
        for name, tensor in metadata.items()
    }


def read_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill tensors, of which each rank may have a share, in place; all ranks must call it.

    Raises:
        CheckpointError: files are missing or truncated.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with _maybe_alone() as alone:
            load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=alone)
    except CheckpointException as error:
        raise CheckpointError(f"cannot read {folder}: {_cause(error)}; restore the folder") from None


@contextmanager
def _maybe_alone() -> Iterator[bool]:
    """Whether this process has no process group. DCP warns about that even with ``no_dist=True``."""
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is", category=UserWarning)
        yield alone


def _cause(error: BaseException) -> str:
    # DCP collects one exception a rank, each with its traceback.
    failures: dict[int, tuple[BaseException, object]] = getattr(error, "failures", {})
    for rank, (cause, _) in sorted(failures.items()):
        return f"rank {rank}: {_first_line(cause)}" if len(failures) > 1 else _first_line(cause)
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
