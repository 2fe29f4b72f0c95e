"""Cross-entropy in chunks, with its gradient computed in the forward pass.

:func:`groundup.nn.functional.cross_entropy` is the formula. :func:`cross_entropy` needs no float32 copy of 16-bit
logits, and :func:`linear_cross_entropy` never holds all logits at once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from groundup.errors import ConfigError
from groundup.nn.functional import check_targets

# Shapes: N positions, D d_model, V vocabulary.


_Losses = Callable[[Tensor, Tensor, Tensor | None, int], Tensor]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over all positions of ``log(sum(exp(logits))) - logits[target]``, in nats.

    The maximum of each row is subtracted before ``exp``, and everything is computed in float32 or better whatever
    the dtype of the logits: a bfloat16 loss would move in steps of 1/64.

    Args:
        logits: ``(..., V)``, unnormalized.
        targets: ``(...)``, integer classes below V.

    Returns:
        A scalar; its exponential is the perplexity.

    Raises:
        ConfigError: the shapes do not match.
    """
    check_targets(logits, targets)
    loss: Tensor = _CrossEntropy.apply(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
    return loss


@torch.compiler.disable  # type: ignore[untyped-decorator]
def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, compile: bool = False) -> Tensor:
    """``cross_entropy(hidden @ weight.T, targets)`` without ever holding all logits.

    The logits of a chunk of positions are overwritten by their gradient, from which the gradients of ``hidden`` and
    ``weight`` are computed at once. Memory is that of one chunk's logits, whatever the number of positions
    (cut cross-entropy; Wijmans et al. 2024).

    Args:
        hidden: ``(..., D)``, in the dtype of the matmuls. weight: ``(V, D)``, cast to it.
        targets: ``(...)``, integer classes below V.
        compile: let torch.compile fuse the code between the matmuls. (The matmuls are large enough to be called one
            by one, and a compiler would only unroll the loop over the chunks.)

    Returns:
        A scalar, in float32 or better.

    Raises:
        ConfigError: the shapes do not match.
    """
    if hidden.shape[:-1] != targets.shape or hidden.shape[-1] != weight.shape[-1]:
        raise ConfigError(
            f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and targets {tuple(targets.shape)} do not "
            f"match; expected hidden (..., {weight.shape[-1]}) and targets {tuple(hidden.shape[:-1])}"
        )
    loss: Tensor = _LinearCrossEntropy.apply(hidden.reshape(-1, hidden.shape[-1]), weight, targets.reshape(-1), compile)
    return loss


class _CrossEntropy(torch.autograd.Function):
    """The gradient, ``(softmax(logits) - onehot(target)) / N``, needs the exponentials that the loss needs, so both
    are computed in one pass.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        ctx.save_for_backward(logits_NV, targets_N)
        ctx.gradient_NV = torch.empty_like(logits_NV) if ctx.needs_input_grad[0] else None
        return _losses(logits_NV, targets_N, ctx.gradient_NV, len(targets_N)).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        # The caller owns the returned gradient, and autograd may accumulate into it: a second pass recomputes it.
        gradient_NV, ctx.gradient_NV = ctx.gradient_NV, None
        if gradient_NV is None:
            logits_NV, targets_N = ctx.saved_tensors
            gradient_NV = torch.empty_like(logits_NV)
            _losses(logits_NV, targets_N, gradient_NV, len(targets_N))
        return _scaled(gradient_NV, upstream[0]), None


class _LinearCrossEntropy(torch.autograd.Function):
    """The same, with the matmul before it in the same pass."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, compile: bool) -> Tensor:
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N)
        ctx.losses = _compiled_losses() if compile else _losses
        wanted = any(ctx.needs_input_grad)
        losses_N, *ctx.gradients = _linear_losses(hidden_ND, weight_VD, targets_N, ctx.losses, gradients=wanted)
        return losses_N.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:  # a second backward pass
            hidden_ND, weight_VD, targets_N = ctx.saved_tensors
            gradients = _linear_losses(hidden_ND, weight_VD, targets_N, ctx.losses, gradients=True)[1:]
        d_hidden_ND, d_weight_VD = (_scaled(gradient, upstream[0]) for gradient in gradients)
        return d_hidden_ND, d_weight_VD, None, None


def _linear_losses(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, losses: _Losses, *, gradients: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Loss of each position, and the gradients of their mean with respect to hidden and weight."""
    count, vocab_size = len(targets_N), len(weight_VD)
    w_VD = weight_VD.to(hidden_ND.dtype)
    losses_N = torch.empty(count, dtype=torch.promote_types(hidden_ND.dtype, torch.float32), device=hidden_ND.device)
    d_hidden_ND = torch.empty_like(hidden_ND) if gradients else None
    d_weight_VD: Tensor | None = None
    positions = _positions_at_once(hidden_ND, vocab_size)
    workspace_NV = hidden_ND.new_empty(positions, vocab_size)
    for start in range(0, count, positions):
        some = slice(start, start + positions)
        here_ND = hidden_ND[some]
        logits_NV = torch.mm(here_ND, w_VD.T, out=workspace_NV[: len(here_ND)])
        losses_N[some] = losses(logits_NV, targets_N[some], logits_NV if gradients else None, count)
        if d_hidden_ND is None:
            continue
        d_logits_NV = logits_NV  # overwritten by its gradient
        torch.mm(d_logits_NV, w_VD, out=d_hidden_ND[some])
        if d_weight_VD is None:
            d_weight_VD = (d_logits_NV.T @ here_ND).to(weight_VD.dtype)
        elif d_weight_VD.dtype == d_logits_NV.dtype:
            d_weight_VD.addmm_(d_logits_NV.T, here_ND)
        else:  # accumulate over positions in the wider type
            d_weight_VD += d_logits_NV.T @ here_ND
    return losses_N, d_hidden_ND, d_weight_VD


def _losses(logits_NV: Tensor, targets_N: Tensor, gradient_NV: Tensor | None, of: int) -> Tensor:
    """Loss of each position.

    A few rows at a time, so that they stay in the cache and 16-bit logits are never copied to float32 as a whole.

    Args:
        gradient_NV: receives the gradient of the losses' sum divided by ``of``; it may be logits_NV itself.
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
        shifted.sub_(shifted.amax(-1, keepdim=True))
        at_target = shifted.gather(1, targets)
        exponentials = shifted.exp_()
        normalizer = exponentials.sum(-1, keepdim=True)
        losses_N[here] = (normalizer.log() - at_target).squeeze(1)
        if gradient_NV is None:
            continue
        probabilities = exponentials.div_(normalizer * of)
        probabilities.scatter_add_(1, targets, torch.full_like(at_target, -1 / of))
        if not in_place:
            gradient_NV[here] = probabilities
    return losses_N


@functools.cache
def _compiled_losses() -> _Losses:
    return torch.compile(_losses_in_one_piece, dynamic=False)


def _losses_in_one_piece(logits_NV: Tensor, targets_N: Tensor, gradient_NV: Tensor | None, of: int) -> Tensor:
    """:func:`_losses` for torch.compile, which chooses the blocks itself."""
    wide_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    shifted_NV = wide_NV - wide_NV.amax(-1, keepdim=True)
    exponentials_NV = shifted_NV.exp()
    normalizer_N1 = exponentials_NV.sum(-1, keepdim=True)
    losses_N = (normalizer_N1.log() - shifted_NV.gather(1, targets_N[:, None])).squeeze(1)
    if gradient_NV is not None:
        is_target_NV = torch.arange(logits_NV.shape[1], device=logits_NV.device) == targets_N[:, None]
        gradient_NV.copy_((exponentials_NV / normalizer_N1 - is_target_NV.to(wide_NV.dtype)) / of)
    return losses_N


def _scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    if upstream.device.type == "cpu" and upstream == 1:  # the common case needs no scaling
        return gradient
    return gradient.mul_(upstream)


def _rows_at_once(logits_NV: Tensor) -> int:
    # A CPU core's cache holds about 2^18 floats; a GPU needs enough work to fill it.
    elements = 2**18 if logits_NV.device.type == "cpu" else 2**27
    return max(1, elements // logits_NV.shape[-1])


def _positions_at_once(hidden_ND: Tensor, vocab_size: int) -> int:
    # Few enough that their logits are small beside the other tensors, enough that the matmuls are fast. Chunks of equal
    # size if possible, since torch.compile generates a kernel for each size.
    count = len(hidden_ND)
    elements = 2**22 if hidden_ND.device.type == "cpu" else 2**28
    chunks = math.ceil(count / max(256, elements // vocab_size))
    even = next((n for n in range(chunks, 2 * chunks) if count % n == 0), chunks)
    return math.ceil(count / even)
