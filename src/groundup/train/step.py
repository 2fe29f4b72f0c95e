"""One optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from groundup.errors import TrainingError
from groundup.optim import CombinedOptimizer, clip_gradients
from groundup.optim.dtensor import whole
from groundup.train.preview.profiler import CLIPPING, scope
from groundup.train.ranks.parallel import Parallel

LossFunction = Callable[[Tensor, Tensor], Tensor]
MicroBatches = Iterable[tuple[Tensor, Tensor]]


class StepResult:
    """Loss and gradient norm of a step, which may still be on their way from the device.

    Whoever launches the next step before looking at this one never lets a GPU wait.
    """

    broken: Tensor
    """Boolean scalar on the device: this step's loss or gradient, or one before it, is NaN or infinite."""

    def __init__(self, loss: Tensor, grad_norm: Tensor, broken: Tensor):
        self.broken = broken
        wide = torch.promote_types(loss.dtype, torch.float32)
        values = torch.stack([loss.to(wide), grad_norm.to(loss.device, wide)])
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(2, dtype=wide, pin_memory=True).copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._values = values

    def read(self) -> tuple[float, float]:
        """Mean loss, and gradient norm before clipping; waits for them.

        Raises:
            TrainingError: one of them is NaN or infinite. The weights have not moved.
        """
        if self._event is not None:
            self._event.synchronize()
        loss, grad_norm = self._values.tolist()
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss}")
        if not math.isfinite(grad_norm):
            raise TrainingError(f"the loss is {loss:.4f}, but the norm of the gradient {grad_norm}")
        return loss, grad_norm


def train_step(
    model: nn.Module,
    loss_function: LossFunction,
    optimizer: CombinedOptimizer,
    micro_batches: MicroBatches,
    accumulation_steps: int,
    grad_clip: float,
    before: StepResult | None = None,
    parallel: Parallel | None = None,
) -> StepResult:
    """Forward and backward over the micro-batches, clip, update; nothing here waits for a GPU.

    If a loss or gradient is NaN or infinite, no weight moves, and reading the result raises.

    Args:
        micro_batches: accumulation_steps pairs of inputs and targets, equally large: the step's loss is their mean.
        grad_clip: largest global gradient norm; 0 only measures it.
        before: the step before, if nobody has read its result yet: where that one broke, no weight moves now either.
        parallel: how the step is shared with other ranks, each of which has micro-batches of its own.
    """
    parallel = parallel or Parallel()
    loss = accumulate_gradients(loss_function, optimizer, micro_batches, accumulation_steps, parallel)
    loss = parallel.ranks.all_reduce_mean(loss)
    with scope(CLIPPING):
        grad_norm = clip_gradients(model.parameters(), grad_clip or math.inf)
    broken = ~(loss.isfinite() & grad_norm.isfinite())
    if before is not None:
        broken = broken | before.broken
    if loss.is_cuda:
        optimizer.step(skip=broken)
    elif not broken:
        optimizer.step()
    return StepResult(loss, grad_norm, broken)


def accumulate_gradients(
    loss_function: LossFunction,
    optimizer: CombinedOptimizer,
    micro_batches: MicroBatches,
    accumulation_steps: int,
    parallel: Parallel,
) -> Tensor:
    """This rank's mean loss, a scalar on the device, and the gradient of all ranks' mean in the parameters."""
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for number, (x, y) in enumerate(micro_batches, start=1):
        with parallel.one_pass(last=number == accumulation_steps):
            loss = loss_function(x, y) / accumulation_steps
            loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def broken_parameter(model: nn.Module) -> str:
    """Names the first parameter whose gradient is not finite; empty if all are."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(whole(parameter.grad)).all():
            return name
    return ""
