"""Cross-entropy in blocks of rows, with its gradient computed in the forward pass.

:func:`groundup.nn.functional.cross_entropy` is the formula. This one needs no float32 copy of 16-bit logits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from groundup.nn.functional import check_targets, mean_loss

# Shapes: N positions, V vocabulary.


def cross_entropy(logits: Tensor, targets: Tensor, *, ignore_index: int | None = None) -> Tensor:
    """Mean over all positions of ``log(sum(exp(logits))) - logits[target]``, in nats.

    The maximum of each row is subtracted before ``exp``, and everything is computed in float32 or better whatever
    the dtype of the logits: a bfloat16 loss would move in steps of 1/64.

    Args:
        logits: ``(..., V)``, unnormalized.
        targets: ``(...)``, integer classes below V.
        ignore_index: target of positions that do not count; the mean is over the others, and 0 without any. None: all
            count.

    Returns:
        A scalar; its exponential is the perplexity.

    Raises:
        ConfigError: the shapes do not match.
    """
    check_targets(logits, targets)
    loss: Tensor = _CrossEntropy.apply(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index)
    return loss


class _CrossEntropy(torch.autograd.Function):
    """The gradient, ``(softmax(logits) - onehot(target)) / N``, needs the exponentials that the loss needs, so both
    are computed in one pass.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor, ignore_index: int | None) -> Tensor:
        ctx.save_for_backward(logits_NV, targets_N)
        ctx.ignore_index = ignore_index
        ctx.gradient_NV = torch.empty_like(logits_NV) if ctx.needs_input_grad[0] else None
        classes_N, of, counts_N = counted(targets_N, ignore_index)
        return mean_loss(row_losses(logits_NV, classes_N, ctx.gradient_NV, of), counts_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        # The caller owns the returned gradient, and autograd may accumulate into it: a second pass recomputes it.
        gradient_NV, ctx.gradient_NV = ctx.gradient_NV, None
        if gradient_NV is None:
            logits_NV, targets_N = ctx.saved_tensors
            gradient_NV = torch.empty_like(logits_NV)
            classes_N, of, _ = counted(targets_N, ctx.ignore_index)
            row_losses(logits_NV, classes_N, gradient_NV, of)
        return scaled(gradient_NV, upstream[0]), None, None


def counted(targets_N: Tensor, ignore_index: int | None) -> tuple[Tensor, int | Tensor, Tensor | None]:
    """Classes to look up, the divisor ``of`` of :func:`row_losses`, and which positions count; None if all do.

    The divisor of a position that does not count is infinite, so that its gradient is exactly 0. Nothing here waits for
    a GPU.
    """
    if ignore_index is None:
        return targets_N, len(targets_N), None
    counts_N = targets_N != ignore_index
    of_N = counts_N.sum().to(torch.float32).expand(len(targets_N)).where(counts_N, math.inf)
    return targets_N.where(counts_N, 0), of_N, counts_N


def row_losses(
    logits_NV: Tensor, targets_N: Tensor, gradient_NV: Tensor | None, of: int | Tensor, softcap: float = 0.0
) -> Tensor:
    """Loss of each position.

    A few rows at a time, so that they stay in the cache and 16-bit logits are never copied to float32 as a whole.

    Args:
        gradient_NV: receives the gradient of each loss divided by ``of``; it may be logits_NV itself.
        of: a number, or one for each position, ``(N,)``.
        softcap: bound c of the logits, c tanh(logits / c); the gradient is that by the unbounded ones. 0: none.
    """
    wide = torch.promote_types(logits_NV.dtype, torch.float32)
    in_place = gradient_NV is logits_NV and logits_NV.dtype == wide
    rows = min(len(targets_N), _rows_at_once(logits_NV))
    workspace = logits_NV if in_place else logits_NV.new_empty(rows, logits_NV.shape[-1], dtype=wide)
    losses_N = logits_NV.new_empty(len(targets_N), dtype=wide)
    for start in range(0, len(targets_N), rows):
        here = slice(start, start + rows)
        targets = targets_N[here, None]
        shifted = logits_NV[here] if in_place else workspace[: len(targets)].copy_(logits_NV[here])
        tanh = None
        if softcap:
            shifted.div_(softcap).tanh_()
            tanh = None if gradient_NV is None else shifted.clone()
            shifted.mul_(softcap)
        shifted.sub_(shifted.amax(-1, keepdim=True))
        at_target = shifted.gather(1, targets)
        exponentials = shifted.exp_()
        normalizer = exponentials.sum(-1, keepdim=True)
        losses_N[here] = (normalizer.log() - at_target).squeeze(1)
        if gradient_NV is None:
            continue
        if isinstance(of, Tensor):
            divisor = of[here, None].to(wide)
            probabilities = exponentials.div_(normalizer * divisor)
            probabilities.scatter_add_(1, targets, -1 / divisor)
        else:
            probabilities = exponentials.div_(normalizer * of)
            probabilities.scatter_add_(1, targets, torch.full_like(at_target, -1 / of))
        if tanh is not None:
            probabilities.mul_(tanh.square_().neg_().add_(1))
        if not in_place:
            gradient_NV[here] = probabilities
    return losses_N


def scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    if upstream.device.type == "cpu" and upstream == 1:  # the common case needs no scaling
        return gradient
    return gradient.mul_(upstream)


def _rows_at_once(logits_NV: Tensor) -> int:
    # A CPU core's cache holds about 2^18 floats; a GPU needs enough work to fill it.
    elements = 2**18 if logits_NV.device.type == "cpu" else 2**27
    return max(1, elements // logits_NV.shape[-1])
