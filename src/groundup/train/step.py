"""One optimizer step: forward and backward over micro-batches, clip, update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from groundup.errors import TrainingError
from groundup.nn import cross_entropy
from groundup.optim import CombinedOptimizer, clip_gradients

if TYPE_CHECKING:
    from groundup.train.build import Trainer
    from groundup.train.ranks.parallel import Parallel

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""Inputs and targets to the mean loss over the targets that count."""
MicroBatches = Iterable[tuple[Tensor, Tensor] | tuple[Tensor, Tensor, float]]
"""Inputs, targets, and the weight of their loss in the step's; without one, all have the same."""
DATA, CLIPPING = "batches", "clipping"
"""Names of the profiled scopes of a step (:mod:`groundup.train.preview.profiler`)."""

profiling = False
"""Whether the profiler is recording; it sets this."""
_nothing = nullcontext()


class StepResult:
    """Loss and gradient norm of a launched step, which may still be on their way from the device.

    A GPU never waits if the next step is launched before this one is read back.
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
        """Return the mean loss and the gradient norm before clipping; waits for them.

        Raises:
            TrainingError: one of them is NaN or infinite. The weights have not moved.
        """
        if self._event is not None:
            self._event.synchronize()
        loss, grad_norm = self._values.tolist()
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss}")
        if not math.isfinite(grad_norm):
            raise TrainingError(f"the loss is {loss:.4f}, but the gradient norm is {grad_norm}")
        return loss, grad_norm


def train_on_batch(trainer: Trainer, learning_rate: float, index: int, before: StepResult | None = None) -> StepResult:
    """Launch one step of a run on its batch number ``index``, counted from 0."""
    trainer.optimizer.set_learning_rate(learning_rate)
    return train_step(
        trainer.model,
        trainer.loss,
        trainer.optimizer,
        trainer.batches.micro_batches(index),
        trainer.batches.count,
        trainer.config.optim.grad_clip,
        before,
        trainer.parallel,
    )


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
        micro_batches: accumulation_steps pairs of inputs and targets, equally large: the step's loss is their mean. Or
            with weights, so that it is the mean over all targets of the step that count, on all ranks.
        grad_clip: largest global gradient norm; 0 only measures it.
        before: the step before, if its result has not been read back yet: if that one broke, no weight moves now.
        parallel: how the step is shared with other ranks, each of which has its own micro-batches.
    """
    loss = accumulate_gradients(loss_function, optimizer, micro_batches, accumulation_steps, parallel)
    if parallel is not None and parallel.ranks.size > 1:
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
    parallel: Parallel | None = None,
) -> Tensor:
    """Return this rank's mean loss, a scalar on the device; leave the gradient of all ranks' mean in the parameters."""
    optimizer.zero_grad(set_to_none=True)
    losses = []
    batches = iter(micro_batches)
    for number in range(1, accumulation_steps + 1):
        with scope(DATA):
            x, y, *weight = next(batches)
        last = number == accumulation_steps
        with parallel.gradient_sync(last=last) if parallel is not None and not parallel.is_alone else _nothing:
            loss = loss_function(x, y)
            loss = loss * weight[0] if weight else loss / accumulation_steps
            loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def build_loss(
    model: nn.Module,
    *,
    compile: bool,
    mode: str = "default",
    chunked: bool = True,
    ignore_index: int | None = None,
) -> LossFunction:
    """Return the function from inputs and targets to the mean loss.

    Compiling wraps the model here only, so its parameters keep their names.

    Args:
        mode: of torch.compile.
        chunked: never hold all logits; otherwise one formula after the other.
        ignore_index: target of positions that do not count; None: all count.
    """
    forward = compiled(model, mode) if compile else model

    # A CUDA graph writes its result to the same memory each time, and the losses of all micro-batches are needed.
    graphed = compile and mode in ("reduce-overhead", "max-autotune")

    def chunked_loss(x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = forward(x, targets=y, ignore_index=ignore_index)
        return found.clone() if graphed else found

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(forward(x), y, ignore_index=ignore_index)

    return chunked_loss if chunked else loss


def compiled(model: nn.Module, mode: str) -> Callable[..., Tensor]:
    """Return the model's forward compiled for the shapes that it meets, each by itself.

    Training and evaluation have batches of different sizes. With torch's default the second size that it meets would
    make it compile once for all sizes, which is slower for each.
    """
    forward: Callable[..., Tensor] = torch.compile(model, mode=mode, dynamic=False)
    return forward


def broken_parameter(model: nn.Module) -> str:
    """Return the name of the first parameter whose gradient is not finite; empty if all are."""
    from groundup.optim.dtensor import whole

    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(whole(parameter.grad)).all():
            return name
    return ""


def scope(name: str) -> AbstractContextManager[Any]:
    """Name a part of the step in the profile; costs a tenth of a microsecond if nothing is profiled."""
    return torch.profiler.record_function(name) if profiling else _nothing
