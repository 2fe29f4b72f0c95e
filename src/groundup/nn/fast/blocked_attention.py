"""Causal attention on a CPU, in blocks that stay in the cache.

torch's fused kernel keeps its blocks in the cache too, but multiplies them one by one, each too small for the library
of products to reach its speed. Here a block is some rows of several heads, and the products are batched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Shapes: B batch, H heads, S sequence, K head size; R rows and T keys of a block.

ROWS = 128
"""Rows of a block: the last square of its keys lies half in the future, which is wasted work."""
ELEMENTS = 2**18
"""Scores of a block, at most, unless one head has more: about what a core's cache holds."""


def suits(q_BHSK: Tensor) -> bool:
    """Whether :func:`causal_attention` is the quickest there is: on a CPU, in full precision."""
    return q_BHSK.device.type == "cpu" and q_BHSK.dtype in (torch.float32, torch.float64) and q_BHSK.dim() == 4


# Operators of torch's own, so that a compiler calls them as they are and works on what is around them.
@torch.library.custom_op("groundup::causal_attention", mutates_args=())
def causal_attention(q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor) -> Tensor:
    """``softmax(q kᵀ / sqrt(K)) v`` over the positions up to each one's own -> ``(B, H, S, K)``.

    The scores are made again in the backward pass (Dao et al. 2022); what is kept is what came in.
    """
    out_BHSK = _heads_side_by_side(q_BHSK)
    for rows, keys in _blocks(q_BHSK):
        torch.bmm(_probabilities(q_BHSK[rows], k_BHSK[keys]), v_BHSK[keys], out=out_BHSK[rows])
    return out_BHSK


@torch.library.custom_op("groundup::causal_attention_backward", mutates_args=())
def _backward(u_BHSK: Tensor, q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With P the softmax of the scaled scores, O = P V and upstream U:

    dV = Pᵀ U;   dP = U Vᵀ;   dS = P (dP - sum(P dP)) / sqrt(K);   dQ = dS K;   dK = dSᵀ Q
    """
    dq, dk, dv = _heads_side_by_side(q_BHSK), _heads_side_by_side(k_BHSK).zero_(), _heads_side_by_side(v_BHSK).zero_()
    for rows, keys in _blocks(q_BHSK):
        q_HRK, k_HTK, u_HRK = q_BHSK[rows], k_BHSK[keys], u_BHSK[rows]
        p_HRT = _probabilities(q_HRK, k_HTK)
        dv[keys].baddbmm_(p_HRT.mT, u_HRK)
        dp_HRT = torch.bmm(u_HRK, v_BHSK[keys].mT)
        ds_HRT = torch._softmax_backward_data(dp_HRT, p_HRT, -1, p_HRT.dtype).mul_(q_HRK.shape[-1] ** -0.5)
        torch.bmm(ds_HRT, k_HTK, out=dq[rows])
        dk[keys].baddbmm_(ds_HRT.mT, q_HRK)
    return dq, dk, dv


def _probabilities(q_HRK: Tensor, k_HTK: Tensor) -> Tensor:
    scores_HRT = torch.bmm(q_HRK, k_HTK.mT).mul_(q_HRK.shape[-1] ** -0.5)
    rows, keys = scores_HRT.shape[1:]
    scores_HRT[..., keys - rows :] += torch.full((rows, rows), -torch.inf, dtype=q_HRK.dtype).triu_(1)
    return torch.softmax(scores_HRT, -1)


def _blocks(q_BHSK: Tensor) -> Iterator[tuple[Any, Any]]:
    """Indices of the queries of each block, and of the keys that they see."""
    batch, num_heads, length, _ = q_BHSK.shape
    for b in range(batch):
        for start in range(0, length, ROWS):
            end = min(length, start + ROWS)
            at_once = max(1, ELEMENTS // ((end - start) * end))
            for first in range(0, num_heads, at_once):
                heads = slice(first, first + at_once)
                yield (b, heads, slice(start, end)), (b, heads, slice(0, end))


def _heads_side_by_side(x_BHSK: Tensor) -> Tensor:
    # Position after position in memory, as the products before and after attention have it.
    batch, num_heads, length, head_dim = x_BHSK.shape
    return x_BHSK.new_empty(batch, length, num_heads, head_dim).transpose(1, 2)


@causal_attention.register_fake
def _(q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor) -> Tensor:
    return _heads_side_by_side(q_BHSK)


@_backward.register_fake
def _(u_BHSK: Tensor, q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _heads_side_by_side(q_BHSK), _heads_side_by_side(k_BHSK), _heads_side_by_side(v_BHSK)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


causal_attention.register_autograd(lambda ctx, u_BHSK: _backward(u_BHSK, *ctx.saved_tensors), setup_context=_keep)
