"""Checkpoints: the classical one-file form, and the folder form that runs use.

A folder holds ``model.safetensors`` (parameters by name), ``optimizer.safetensors`` (optimizer tensors by parameter
name) and ``state.json`` (everything else). It is written beside its final place, flushed to the disk, and renamed:
a folder that has its name is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from groundup.errors import CheckpointError, FileMissingError
from groundup.files import atomic_writer, sync_directory, write_atomically
from groundup.train.state import TrainState

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
FORMAT = "groundup-checkpoint"
VERSION = 1


def save_checkpoint(
    model: nn.Module, optimizer: torch.optim.Optimizer, iteration: int, out: str | os.PathLike[str] | IO[bytes]
) -> None:
    """Write model, optimizer and iteration into one file, or an open binary file. A path is replaced atomically.

    Raises:
        CheckpointError: the path cannot be written; what it held is untouched.
    """
    model = getattr(model, "_orig_mod", model)  # a compiled model is saved under the names of the model it wraps
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iteration": int(iteration)}
    if not isinstance(out, str | os.PathLike):
        torch.save(content, out)
        return
    try:
        with atomic_writer(Path(out)) as file:
            torch.save(content, file)
    except OSError as error:
        raise CheckpointError(f"cannot write {out}: {error.strerror or error}; check folder and disk space") from None


def load_checkpoint(
    src: str | os.PathLike[str] | IO[bytes], model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> int:
    """Restore what :func:`save_checkpoint` wrote; without an optimizer only the model, for inference.

    Nothing is unpickled but tensors and plain values (``weights_only=True``). Either all is restored or nothing.

    Returns:
        The iteration.

    Raises:
        FileMissingError: no such file.
        CheckpointError: truncated or foreign file, or it does not fit the model.
    """
    model = getattr(model, "_orig_mod", model)
    try:
        content = torch.load(src, map_location="cpu", weights_only=True)
        weights, iteration = dict(content["model"]), int(content["iteration"])
        if not all(isinstance(weight, Tensor) for weight in weights.values()):
            raise TypeError("its model is not a table of tensors")
    except FileNotFoundError:
        raise FileMissingError(f"no checkpoint {src}") from None
    except Exception as error:  # torch raises whatever its zip and pickle readers raise
        raise CheckpointError(f"{src} is truncated or not a checkpoint of groundup: {_first_line(error)}") from None
    check_fit(str(src), weights, model.state_dict())
    if optimizer is not None:
        _restore_optimizer(str(src), optimizer, content.get("optimizer"))
    model.load_state_dict(weights)
    return iteration


def _restore_optimizer(source: str, optimizer: torch.optim.Optimizer, saved: Any) -> None:
    before = optimizer.state_dict()
    try:
        optimizer.load_state_dict(saved)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        optimizer.load_state_dict(before)
        raise CheckpointError(f"the optimizer of {source} does not fit: {_first_line(error)}") from None


def write_folder(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Write a checkpoint folder, complete or not at all.

    Raises:
        CheckpointError: the disk is full or not writable. Nothing that existed is touched.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        tensors, numbers = _optimizer_state(model, optimizer)
        _save_tensors(_parameters(model), temporary / MODEL_FILE)
        _save_tensors(tensors, temporary / OPTIMIZER_FILE)
        content = json.dumps(state | {"optimizer": numbers}, indent=1)
        write_atomically(temporary / STATE_FILE, content)
        sync_directory(temporary)
        remove_folder(folder)
        os.rename(temporary, folder)
        sync_directory(folder.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write {folder}: {_first_line(error)}; earlier checkpoints are untouched: "
            f"free some space and resume"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Delete a checkpoint folder, if it exists; half deleted, it no longer has its name."""
    if folder.exists():
        doomed = folder.with_name(f".{folder.name}.{os.getpid()}.old.tmp")
        os.rename(folder, doomed)
        shutil.rmtree(doomed)


def read_state(folder: Path) -> dict[str, Any]:
    """``state.json`` of a checkpoint folder.

    Raises:
        FileMissingError: no such folder.
        CheckpointError: it is not a complete checkpoint.
    """
    if not folder.is_dir():
        raise FileMissingError(f"no checkpoint {folder}")
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        if state["format"] != FORMAT or state["version"] != VERSION:
            raise ValueError(f"format {state['format']!r} version {state['version']!r}, expected {FORMAT!r} {VERSION}")
        TrainState.from_dict(state)
        dict(state["optimizer"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder} is not a complete checkpoint: {STATE_FILE}: {_first_line(error)}; "
            f"remove the folder to use the one before it"
        ) from None
    return dict(state)


def read_model(folder: Path, model: nn.Module) -> None:
    """Load the parameters of a checkpoint folder into a model of the same architecture.

    Raises:
        CheckpointError: the file is truncated, or names and shapes differ from the model's.
    """
    path = folder / MODEL_FILE
    saved = _load_tensors(path)
    parameters = _parameters(model)
    check_fit(str(path), saved, parameters)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])


def read_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the optimizer's tensors and numbers; every value comes back bit for bit."""
    path = folder / OPTIMIZER_FILE
    tensors, numbers = _load_tensors(path), state["optimizer"]
    restored: dict[str, dict[str, Any]] = {name: dict(values) for name, values in numbers.items()}
    for key, tensor in tensors.items():
        name, _, kind = key.rpartition(".")
        restored.setdefault(name, {})[kind] = tensor
    parameters = dict(model.named_parameters())
    for name, values in restored.items():
        fits = name in parameters and any(isinstance(v, Tensor) for v in values.values())
        if not fits or any(isinstance(v, Tensor) and v.shape != parameters[name].shape for v in values.values()):
            raise CheckpointError(f"{path} does not belong to this model: {name} does not fit; it is another file")
    for name, parameter in parameters.items():
        if name in restored:
            optimizer.state[parameter] = {
                kind: value.to(parameter.device) if isinstance(value, Tensor) else value
                for kind, value in restored[name].items()
            }


def check_fit(source: str, saved: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Refuse weights whose names or shapes are not the model's, naming the first that differs."""
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
            raise CheckpointError(f"{source} has {name}, which the model has not; it was made by another architecture")
    for name, other in _tied(wanted):
        if not torch.equal(saved[name], saved[other]):
            raise CheckpointError(
                f"{source}: {name} and {other} differ, but the model ties them; it was made without tied embeddings"
            )


def _tied(tensors: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.numel() and (other := first.setdefault(tensor.data_ptr(), name)) != name:
            yield other, name


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    # Named parameters, not the state dict: a tied matrix comes once, and all buffers can be computed.
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        for kind, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}.{kind}"] = value
            else:
                numbers.setdefault(name, {})[kind] = value
    return tensors, numbers


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
