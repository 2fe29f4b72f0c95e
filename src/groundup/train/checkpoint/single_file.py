"""Checkpoints in their classical form: model, optimizer and iteration in one file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from groundup.errors import CheckpointError, FileMissingError
from groundup.system.files import atomic_writer, open_regular
from groundup.train.checkpoint.folder import check_fit


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
        if isinstance(src, str | os.PathLike):
            open_regular(Path(src)).close()  # a FIFO would wait for a writer
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
