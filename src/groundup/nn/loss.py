"""Cross-entropy, the loss of a language model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from groundup.errors import ConfigError

# Shapes: N positions, V vocabulary.


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over all positions of ``log(sum(exp(logits))) - logits[target]``, in nats.

    The maximum of each row is subtracted before ``exp``, and everything is computed in float32 or better whatever
    the dtype of the logits: a bfloat16 loss would move in steps of 1/64.

    Args:
        logits: ``(..., V)``, unnormalised.
        targets: ``(...)``, integer classes below V.

    Returns:
        A scalar; its exponential is the perplexity.

    Raises:
        ConfigError: the shapes do not belong together.
    """
    if logits.shape[:-1] != targets.shape:
        raise ConfigError(
            f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} do not belong together; "
            f"expected targets {tuple(logits.shape[:-1])}"
        )
    loss: Tensor = _CrossEntropy.apply(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
    return loss


class _CrossEntropy(torch.autograd.Function):
    """The gradient, ``(softmax(logits) - onehot(target)) / N``, needs the very exponentials that the loss needs, so it
    is made in the same pass.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        ctx.save_for_backward(logits_NV, targets_N)
        losses_N, ctx.gradient_NV = _losses(logits_NV, targets_N, with_gradient=ctx.needs_input_grad[0])
        return losses_N.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        # The gradient is given away, and autograd may add others into it: a second pass has to make its own.
        gradient_NV, ctx.gradient_NV = ctx.gradient_NV, None
        if gradient_NV is None:
            gradient_NV = _losses(*ctx.saved_tensors, with_gradient=True)[1]
        if upstream[0].device.type == "cpu" and upstream[0] == 1:  # the common case, without another pass
            return gradient_NV, None
        return gradient_NV.mul_(upstream[0]), None


def _losses(logits_NV: Tensor, targets_N: Tensor, *, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Loss of each position, and the gradient of their mean.

    A few rows at a time, so that they stay in the cache, and no float32 copy of 16-bit logits exists as a whole.
    """
    wide = torch.promote_types(logits_NV.dtype, torch.float32)
    rows = _rows_at_once(logits_NV)
    workspace = torch.empty(min(rows, len(targets_N)), logits_NV.shape[-1], dtype=wide, device=logits_NV.device)
    losses_N = torch.empty(len(targets_N), dtype=wide, device=logits_NV.device)
    gradient_NV = torch.empty_like(logits_NV) if with_gradient else None
    for start in range(0, len(targets_N), rows):
        here = slice(start, start + rows)
        targets = targets_N[here, None]
        shifted = workspace[: len(targets)].copy_(logits_NV[here])
        shifted.sub_(shifted.amax(-1, keepdim=True))
        at_target = shifted.gather(1, targets)
        exponentials = shifted.exp_()
        normalizer = exponentials.sum(-1, keepdim=True)
        losses_N[here] = (normalizer.log() - at_target).squeeze(1)
        if gradient_NV is not None:
            probabilities = exponentials.div_(normalizer * len(targets_N))
            probabilities.scatter_add_(1, targets, torch.full_like(at_target, -1 / len(targets_N)))
            gradient_NV[here] = probabilities
    return losses_N, gradient_NV


def _rows_at_once(logits_NV: Tensor) -> int:
    # A CPU core's cache holds about 2^18 floats; a GPU wants enough work to fill it.
    elements = 2**18 if logits_NV.device.type == "cpu" else 2**27
    return max(1, elements // logits_NV.shape[-1])
