"""Checkpoint folders: complete, or absent.

A folder holds ``model.safetensors`` (parameters by name), ``optimizer.safetensors`` (optimizer tensors by parameter
name) and ``state.json`` (everything else, with a SHA-256 of each file and of itself). It is written under a temporary
name, flushed to the disk, and renamed: a folder with its final name is complete. A checkpoint that every rank writes
its part of has two folders of shards in place of the two files (:mod:`groundup.train.checkpoint.shards`). Either form
is read on any number of ranks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from groundup.errors import CheckpointError, FileMissingError
from groundup.nn import TransformerLM
from groundup.nn.fast.accelerate import accelerate
from groundup.optim.average import AVERAGE, RAW
from groundup.optim.dtensor import fill, is_sharded, laid_out_like
from groundup.record import read_object
from groundup.record.run import RunDirectory
from groundup.system.files import (
    SEAL,
    delete,
    discard,
    file_sha256,
    is_as_sealed,
    sealed,
    sync_directory,
    write_atomically,
)
from groundup.system.threads import in_background
from groundup.train.checkpoint.shards import MODEL_SHARDS, OPTIMIZER_SHARDS, read_shards, shard_shapes
from groundup.train.checkpoint.tensor_file import TensorFile
from groundup.train.state import TrainState

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
FILES = "files"
"""The entry of ``state.json`` with the SHA-256 of each file of tensors, by name."""
FORMAT = "groundup-checkpoint"
VERSION = 1
_ATTEMPTS = 5
_USE_ANOTHER = "restore it, or remove the folder to use the checkpoint before it"


Read = TypeVar("Read")


@dataclass(frozen=True)
class CheckpointContent:
    """Content of a checkpoint folder, one field a file."""

    model: dict[str, Tensor]
    """Parameters by name, or their average (:mod:`groundup.optim.average`); a tied matrix occurs once."""
    optimizer: dict[str, Tensor]
    """Optimizer tensors by ``parameter.kind``, such as ``ln_final.weight.exp_avg``."""
    state: dict[str, Any]
    """Plain values; the optimizer's own under ``optimizer``, by parameter."""

    @classmethod
    def of(cls, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> CheckpointContent:
        """Return the current content. Its tensors are the live ones: copy them if training goes on."""
        tensors: dict[str, Tensor] = {}
        numbers: dict[str, dict[str, Any]] = {}
        weights = parameters_by_name(model)
        for name, parameter in model.named_parameters():
            # A parameter without a gradient so far has no state; indexing the defaultdict would create one.
            for kind, value in optimizer.state.get(parameter, {}).items():
                if kind == AVERAGE:
                    tensors[f"{name}.{RAW}"], weights[name] = weights[name], value
                elif isinstance(value, Tensor):
                    tensors[f"{name}.{kind}"] = value.detach()
                else:
                    numbers.setdefault(name, {})[kind] = value
        return cls(weights, tensors, state | {"optimizer": numbers})


def write_folder(folder: Path, content: CheckpointContent) -> None:
    """Write a checkpoint folder, completely or not at all.

    Raises:
        CheckpointError: the disk is full or not writable. Nothing that existed is touched.
    """
    with replacing(folder) as temporary:
        _save_tensors(content.model, temporary / MODEL_FILE)
        _save_tensors(content.optimizer, temporary / OPTIMIZER_FILE)
        write_state(temporary, content.state | {FILES: hashes(temporary)})


def write_weights(folder: Path, content: CheckpointContent) -> None:
    """Write the weights and the state of a checkpoint, without the optimizer's, as :func:`write_folder` does."""
    with replacing(folder) as temporary:
        _save_tensors(content.model, temporary / MODEL_FILE)
        write_state(temporary, content.state | {"optimizer": {}, FILES: hashes(temporary)})


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state.json``, with the SHA-256 of its content."""
    write_atomically(folder / STATE_FILE, json.dumps(sealed(state), indent=1))


def hashes(folder: Path, rank: int = 0, size: int = 1) -> dict[str, str]:
    """Return the SHA-256 of each file of tensors in a checkpoint folder, by its name in it.

    Args:
        rank, size: take every ``size``-th file, from the ``rank``-th on.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors"))
    return {name: file_sha256(folder / name) for name in names[rank::size]}


def check_hashes(
    folder: Path,
    state: Mapping[str, Any],
    part: str = "",
    rank: int = 0,
    size: int = 1,
    sha256_of: Callable[[Path], str] = file_sha256,
) -> None:
    """Compare the files of tensors with their hashes. Checkpoints of version 0.1 have no hashes, and pass.

    Args:
        part: only files whose names begin so: "model" or "optimizer".
        rank, size: take every ``size``-th file, from the ``rank``-th on.
        sha256_of: hashes a file, where it is open already.

    Raises:
        CheckpointError: a file is missing or was changed.
    """
    expected = sorted(item for item in state.get(FILES, {}).items() if item[0].startswith(part))
    for name, sha256 in expected[rank::size]:
        path = folder / name
        try:
            found = sha256_of(path)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {_first_line(error)}; {_USE_ANOTHER}") from None
        if found != sha256:
            raise CheckpointError(
                f"{path} was changed after it was written: its SHA-256 is {found[:12]}…, expected {sha256[:12]}…; "
                f"{_USE_ANOTHER}"
            )


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill. It replaces ``folder`` when the block ends, and is deleted after an error.

    Raises:
        CheckpointError: the disk is full or not writable. Nothing that existed is touched.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()  # without parents: a run that was deleted meanwhile stays so
        yield temporary
        sync_directory(temporary)
        discard(folder)
        os.rename(temporary, folder)
        sync_directory(folder.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write {folder}: {_first_line(error)}; earlier checkpoints are untouched: "
            f"free some space and resume"
        ) from None
    finally:
        delete(temporary)


def read_state(folder: Path) -> dict[str, Any]:
    """Read ``state.json`` of a checkpoint folder.

    Raises:
        FileMissingError: no such folder.
        CheckpointError: it is not a complete checkpoint.
    """
    if not folder.is_dir():
        raise FileMissingError(f"no checkpoint {folder}")
    try:
        state = read_object(folder / STATE_FILE)
        if state["format"] != FORMAT or state["version"] != VERSION:
            raise ValueError(f"format {state['format']!r} version {state['version']!r}, expected {FORMAT!r} {VERSION}")
        TrainState.from_dict(state)
        dict(state["optimizer"])
        dict(state.get("options", {}))
        if not is_as_sealed(state) or (FILES in state and SEAL not in state):
            raise ValueError("it was changed after it was written: its SHA-256 is another one")
        if folder.name.startswith("step-") and folder.name != f"step-{state['step']}":
            raise ValueError(f"it is that of step {state['step']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder} is not a complete checkpoint: {STATE_FILE}: {_first_line(error)}; "
            f"remove the folder to use the one before it"
        ) from None
    return dict(state)


def with_checkpoint(run: RunDirectory, which: str, read: Callable[[Path], Read]) -> Read:
    """Read a checkpoint of a run that may still be training, and deletes older ones.

    If "best" or "latest" is deleted while it is read, the one that has its name now is read from the beginning.

    Args:
        which: "best", "latest", or a step.
        read: reads the folder of a checkpoint, and leaves nothing behind where it raises an error.

    Raises:
        CheckpointError: no such checkpoint; or it is deleted again and again.
    """
    for _ in range(_ATTEMPTS):
        folder = run.checkpoint(which)
        try:
            return read(folder)
        except (OSError, CheckpointError):
            if folder.is_dir() or which not in ("best", "latest"):
                raise
    raise CheckpointError(
        f"{folder} was deleted while it was read, like {_ATTEMPTS - 1} before it: the run is training, and deletes its "
        f"older checkpoints; wait until it has ended, or let it keep more with train.keep_checkpoints"
    )


def load_model(run: RunDirectory, which: str = "best", device: str = "cpu") -> tuple[TransformerLM, dict[str, Any]]:
    """Load the model of a run's checkpoint, in evaluation mode, and the checkpoint's state.

    Args:
        which: "best", "latest", or a step.

    Raises:
        CheckpointError: truncated or foreign checkpoint.
    """

    def read(folder: Path) -> tuple[TransformerLM, dict[str, Any]]:
        state = read_state(folder)
        with in_background(check_hashes, folder, state, part="model") as checked:
            model = accelerate(TransformerLM.uninitialized(run.config_at(state).model, device), kernels="plain")
            try:
                read_model(folder, model)
            finally:
                checked()  # what is wrong with a changed file is that it was changed
        return model.eval(), state

    return with_checkpoint(run, which, read)


def read_model(folder: Path, model: nn.Module) -> None:
    """Load the parameters of a checkpoint folder into a model of the same architecture.

    If the model's weights are sharded over ranks, all of them must call this.

    Raises:
        CheckpointError: the file is truncated, or names and shapes differ from the model's.
    """
    read_tensors(folder, parameters_by_name(model))


def read_tensors(folder: Path, parameters: dict[str, Tensor]) -> None:
    """Fill tensors, by the names of all parameters, as :func:`read_model` does."""
    shards = folder / MODEL_SHARDS
    if shards.is_dir():
        check_fit(str(shards), shard_shapes(shards), parameters)
        read_shards(shards, parameters)
        return
    saved = TensorFile(folder / MODEL_FILE)
    check_fit(str(saved.path), saved.shapes(), parameters)
    _fill_all(parameters, saved)


def read_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the optimizer's tensors and numbers; every value comes back bit for bit.

    Raises:
        CheckpointError: the file is truncated, or belongs to another model.
    """
    path, shards, numbers = folder / OPTIMIZER_FILE, folder / OPTIMIZER_SHARDS, state["optimizer"]
    sharded = shards.is_dir()
    saved = None if sharded else TensorFile(path)
    # Only the shapes for now: a rank allocates its part and no more.
    shapes_of = shard_shapes(shards) if saved is None else saved.shapes()
    restored: dict[str, dict[str, Any]] = {name: dict(values) for name, values in numbers.items()}
    for key, tensor in shapes_of.items():
        name, _, kind = key.rpartition(".")
        restored.setdefault(name, {})[kind] = tensor
    parameters = dict(model.named_parameters())
    for name, values in restored.items():
        # Beside moments of the parameter's shape an optimizer may keep single numbers, or one for each row, as tensors.
        shapes = {value.shape for value in values.values() if isinstance(value, Tensor) and value.ndim}
        if name not in parameters or shapes - {parameters[name].shape[:1]} - {parameters[name].shape} or not shapes:
            source = shards if sharded else path
            raise CheckpointError(f"{source} does not belong to this model: {name} does not fit; it is another file")
    for name, values in restored.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {
            kind: laid_out_like(parameter, value) if isinstance(value, Tensor) else value
            for kind, value in values.items()
        }
    tensors = CheckpointContent.of(model, optimizer, {}).optimizer
    if saved is None:
        read_shards(shards, tensors)
    else:
        _fill_all(tensors, saved)


def parameters_by_name(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a model, detached; a tied matrix occurs once."""
    # Not the state dict, which has it twice, and buffers, which are computed.
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _fill_all(tensors: Mapping[str, Tensor], saved: TensorFile) -> None:
    for name, tensor in tensors.items():
        if is_sharded(tensor):
            fill(tensor, saved[name])
        else:
            saved.fill(name, tensor)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def check_fit(source: str, saved: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Refuse weights whose names or shapes are not the model's, naming the first that differs.

    Raises:
        CheckpointError: they were made by another architecture.
    """
    for name in wanted:
        if name not in saved:
            raise CheckpointError(f"{source} has no {name}; it was made by another architecture")
        if saved[name].shape != wanted[name].shape:
            raise CheckpointError(
                f"{source}: {name} has shape {tuple(saved[name].shape)}, the model's has {tuple(wanted[name].shape)}; "
                f"it was made by another architecture"
            )
    for name in saved:
        if name not in wanted:
            raise CheckpointError(
                f"{source} has {name}, which the model does not have; it was made by another architecture"
            )
    for name, other in _tied(wanted):
        if not torch.equal(saved[name], saved[other]):
            raise CheckpointError(
                f"{source}: {name} and {other} differ, but the model ties them; it was made without tied embeddings"
            )


def _tied(tensors: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        # A DTensor has no address and shares no memory: a tied one occurs once.
        address = tensor.data_ptr()
        if tensor.numel() and address and (other := first.setdefault(address, name)) != name:
            yield other, name
