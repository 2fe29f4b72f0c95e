"""The head's matmul and cross-entropy in one, in chunks of positions: all logits never exist at once.

Import this module only where it is used: its decorator loads torch's compiler, which takes more than a second.
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
from groundup.nn.fast.loss import counted, row_losses, scaled
from groundup.nn.functional import mean_loss

# Shapes: N positions, D d_model, V vocabulary.

_Losses = Callable[[Tensor, Tensor, Tensor | None, int | Tensor, float], Tensor]


@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch does not annotate it
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int | None = None,
    softcap: float = 0.0,
    compile: bool = False,
) -> Tensor:
    """``cross_entropy(hidden @ weight.T, targets)`` without ever holding all logits.

    The logits of a chunk of positions are overwritten by their gradient, from which the gradients of ``hidden`` and
    ``weight`` are computed at once. Memory is that of one chunk's logits, whatever the number of positions
    (cut cross-entropy; Wijmans et al. 2024).

    Args:
        hidden: ``(..., D)``, in the dtype of the matmuls. weight: ``(V, D)``, cast to it.
        targets: ``(...)``, integer classes below V.
        ignore_index: target of positions that do not count; the mean is over the others, and 0 without any. None: all
            count.
        softcap: bound c of the logits, which become c tanh(logits / c); 0: none.
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
    loss: Tensor = _LinearCrossEntropy.apply(
        hidden.reshape(-1, hidden.shape[-1]), weight, targets.reshape(-1), ignore_index, softcap, compile
    )
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """Matmul, loss and the gradients of both in one pass over the chunks."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        ignore_index: int | None,
        softcap: float,
        compile: bool,
    ) -> Tensor:
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N)
        ctx.ignore_index, ctx.softcap = ignore_index, softcap
        ctx.losses = _compiled_losses() if compile else row_losses
        wanted = any(ctx.needs_input_grad)
        classes_N, of, counts_N = counted(targets_N, ignore_index)
        losses_N, *ctx.gradients = _linear_losses(
            hidden_ND, weight_VD, classes_N, of, softcap, ctx.losses, gradients=wanted
        )
        return mean_loss(losses_N, counts_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:  # a second backward pass
            hidden_ND, weight_VD, targets_N = ctx.saved_tensors
            classes_N, of, _ = counted(targets_N, ctx.ignore_index)
            gradients = _linear_losses(hidden_ND, weight_VD, classes_N, of, ctx.softcap, ctx.losses, gradients=True)[1:]
        d_hidden_ND, d_weight_VD = (scaled(gradient, upstream[0]) for gradient in gradients)
        return d_hidden_ND, d_weight_VD, None, None, None, None


def _linear_losses(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    of: int | Tensor,
    softcap: float,
    losses: _Losses,
    *,
    gradients: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Loss of each position, and the gradients of the sum of losses / of with respect to hidden and weight."""
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
        divisor = of[some] if isinstance(of, Tensor) else of
        losses_N[some] = losses(logits_NV, targets_N[some], logits_NV if gradients else None, divisor, softcap)
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


@functools.cache
def _compiled_losses() -> _Losses:
    return torch.compile(_losses_in_one_piece, dynamic=False)


def _losses_in_one_piece(
    logits_NV: Tensor, targets_N: Tensor, gradient_NV: Tensor | None, of: int | Tensor, softcap: float
) -> Tensor:
    """:func:`row_losses` for torch.compile, which chooses the blocks itself."""
    wide_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    tanh_NV = torch.tanh(wide_NV / softcap) if softcap else None
    if tanh_NV is not None:
        wide_NV = softcap * tanh_NV
    shifted_NV = wide_NV - wide_NV.amax(-1, keepdim=True)
    exponentials_NV = shifted_NV.exp()
    normalizer_N1 = exponentials_NV.sum(-1, keepdim=True)
    losses_N = (normalizer_N1.log() - shifted_NV.gather(1, targets_N[:, None])).squeeze(1)
    if gradient_NV is not None:
        is_target_NV = torch.arange(logits_NV.shape[1], device=logits_NV.device) == targets_N[:, None]
        divisor = of[:, None].to(wide_NV.dtype) if isinstance(of, Tensor) else of
        d_NV = (exponentials_NV / normalizer_N1 - is_target_NV.to(wide_NV.dtype)) / divisor
        gradient_NV.copy_(d_NV if tanh_NV is None else d_NV * (1 - tanh_NV.square()))
    return losses_N


def _positions_at_once(hidden_ND: Tensor, vocab_size: int) -> int:
    # Few enough that their logits are small beside the other tensors, enough that the matmuls are fast. Chunks of equal
    # size if possible, since torch.compile generates a kernel for each size.
    count = len(hidden_ND)
    elements = 2**22 if hidden_ND.device.type == "cpu" else 2**28
    chunks = math.ceil(count / max(256, elements // vocab_size))
    even = next((n for n in range(chunks, 2 * chunks) if count % n == 0), chunks)
    return math.ceil(count / even)
