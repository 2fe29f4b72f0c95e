"""Cross-entropy, the loss of a language model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    """
    loss: Tensor = _CrossEntropy.apply(logits.flatten(0, -2), targets.flatten())
    return loss


class _CrossEntropy(torch.autograd.Function):
    """The gradient, ``(softmax(logits) - onehot(target)) / N``, needs the very exponentials that the loss needs, so it
    is made in the same pass, a few rows at a time: they never leave the cache, and no float32 copy of 16-bit logits
    exists as a whole.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        wide = torch.promote_types(logits_NV.dtype, torch.float32)
        gradient_NV = torch.empty_like(logits_NV) if ctx.needs_input_grad[0] else None
        rows = _rows_at_once(logits_NV)
        workspace = torch.empty(min(rows, len(targets_N)), logits_NV.shape[-1], dtype=wide, device=logits_NV.device)
        losses = torch.empty(len(targets_N), dtype=wide, device=logits_NV.device)
        for start in range(0, len(targets_N), rows):
            here = slice(start, start + rows)
            targets = targets_N[here, None]
            shifted = workspace[: len(targets)].copy_(logits_NV[here])
            shifted.sub_(shifted.amax(-1, keepdim=True))
            at_target = shifted.gather(1, targets)
            exponentials = shifted.exp_()
            normalizer = exponentials.sum(-1, keepdim=True)
            losses[here] = (normalizer.log() - at_target).squeeze(1)
            if gradient_NV is not None:
                probabilities = exponentials.div_(normalizer * len(targets_N))
                probabilities.scatter_add_(1, targets, torch.full_like(at_target, -1 / len(targets_N)))
                gradient_NV[here] = probabilities
        if gradient_NV is not None:
            ctx.save_for_backward(gradient_NV)
        return losses.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (gradient_NV,) = ctx.saved_tensors
        if upstream[0].device.type == "cpu" and upstream[0] == 1:  # the common case, without another pass
            return gradient_NV, None
        return gradient_NV * upstream[0].to(gradient_NV.dtype), None


def _rows_at_once(logits_NV: Tensor) -> int:
    # A CPU core's cache holds about 2^18 floats; a GPU wants enough work to fill it.
    elements = 2**18 if logits_NV.device.type == "cpu" else 2**27
    return max(1, elements // logits_NV.shape[-1])
