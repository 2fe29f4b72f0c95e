"""One optimizer step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from groundup.errors import TrainingError
from groundup.optim import gradient_clipping
from groundup.train.build import LossFunction


def train_step(
    model: nn.Module,
    loss_function: LossFunction,
    optimizer: torch.optim.Optimizer,
    micro_batches: Iterable[tuple[Tensor, Tensor]],
    accumulation_steps: int,
    grad_clip: float,
) -> tuple[float, float]:
    """Forward and backward over the micro-batches, clip, update.

    Args:
        micro_batches: accumulation_steps pairs of inputs and targets, equally large: the step's loss is their mean.
        grad_clip: largest global gradient norm; 0 only measures it.

    Returns:
        Mean loss and gradient norm before clipping.

    Raises:
        TrainingError: a loss or gradient is NaN or infinite; the weights are untouched.
    """
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=next(model.parameters()).device)
    for x, y in micro_batches:
        loss = loss_function(x, y) / accumulation_steps
        loss.backward()
        total += loss.detach()
    mean_loss = total.item()
    if not math.isfinite(mean_loss):
        raise TrainingError(f"the loss is {mean_loss}")
    try:
        norm = gradient_clipping(model.parameters(), grad_clip or math.inf)
    except TrainingError:
        raise TrainingError(f"the loss is {mean_loss:.4f}, but {_first_broken_gradient(model)}") from None
    optimizer.step()
    return mean_loss, norm.item()


def _first_broken_gradient(model: nn.Module) -> str:
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"the gradient of {name} is not finite"
    return "the norm of the gradient overflows"
