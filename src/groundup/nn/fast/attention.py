"""Fast self-attention: a fused QKV projection, rotation in one pass, and fused attention kernels.

Three classes take the place of :class:`groundup.nn.attention.MultiHeadSelfAttention`, with its parameters: fused
projections only, a fused kernel only, or both. On a CPU in float32 the kernel that goes with fused projections is our
own, :func:`causal_attention`; everywhere else it is torch's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from groundup.nn.attention import KVCache, MultiHeadSelfAttention, rotate
from groundup.nn.fast.layers import pack, packed_linear
from groundup.nn.functional import causal_mask

# Shapes: B batch, S sequence, T keys, D d_model, H query heads, G heads of keys and values, N all heads, K head size;
# R rows and T keys of a block.


class _FastAttention(MultiHeadSelfAttention):
    """The layer it replaces, with the same submodules."""

    def __init__(self, plain: MultiHeadSelfAttention):
        nn.Module.__init__(self)
        self.layer_index, self.num_heads, self.num_kv_heads = plain.layer_index, plain.num_heads, plain.num_kv_heads
        self.rope = plain.rope
        self.q_proj, self.k_proj, self.v_proj = plain.q_proj, plain.k_proj, plain.v_proj
        self.output_proj, self.q_norm, self.k_norm = plain.output_proj, plain.q_norm, plain.k_norm
        self.qk_scale, self.value_gate = plain.qk_scale, plain.value_gate


class FlashAttention(_FastAttention):
    """Self-attention with torch's fused kernel, which never holds all scores."""

    def attend(self, q_BHSK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, mask: Tensor | None = None) -> Tensor:
        queries, keys = q_BHSK.shape[-2], k_BHTK.shape[-2]
        # is_causal aligns the first query with the first key; with a cache the last ones have to be aligned.
        causal = mask is None and queries == keys
        if mask is None and queries not in (1, keys):
            mask = causal_mask(queries, keys, q_BHSK.device)
        return torch.nn.functional.scaled_dot_product_attention(
            q_BHSK, k_BHTK, v_BHTK, attn_mask=mask, is_causal=causal
        )


class FusedQKVAttention(_FastAttention):
    """Self-attention with one matmul for queries, keys and values, which are rotated in one pass."""

    def __init__(self, plain: MultiHeadSelfAttention):
        super().__init__(plain)
        pack([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])

    def project(
        self, x: Tensor, token_positions: Tensor | None, cache: KVCache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if token_positions is not None or cache is not None or torch.compiler.is_compiling():
            return super().project(x, token_positions, cache)
        layers = (self.q_proj, self.k_proj, self.v_proj)
        qkv = packed_linear(x, [layer.weight for layer in layers])
        if self.q_proj.bias is not None:
            qkv = qkv + torch.cat([layer.bias for layer in layers if layer.bias is not None]).to(qkv.dtype)
        rotations = None if self.rope is None else torch.complex(*self.rope.tables(x.shape[-2]))
        if self.q_norm is None:
            return rotated_heads(qkv, rotations, self.num_heads, self.num_kv_heads)
        q_BHSK, k_BGSK, v_BGSK = rotated_heads(qkv, None, self.num_heads, self.num_kv_heads)
        q_BHSK, k_BGSK = self.normalized(q_BHSK, k_BGSK)
        if rotations is not None:
            q_BHSK, k_BGSK = rotate(q_BHSK, rotations), rotate(k_BGSK, rotations)
        return q_BHSK, k_BGSK, v_BGSK


class FusedQKVFlashAttention(FusedQKVAttention, FlashAttention):
    """Self-attention with both: fused projections, and a fused kernel."""

    def attend(self, q_BHSK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None and q_BHSK.shape[-2] == k_BHTK.shape[-2] and suits(q_BHSK):
            return causal_attention(q_BHSK, k_BHTK, v_BHTK)
        return super().attend(q_BHSK, k_BHTK, v_BHTK, mask)


def rotated_heads(
    qkv: Tensor, rotations_SK: Tensor | None, num_heads: int, num_kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries ``(B, H, S, K)``, keys and values ``(B, G, S, K)`` of ``(B, S, (H + 2 G) K)``, the first two rotated.

    Args:
        rotations_SK: ``exp(i angle)``, complex ``(S, K/2)``; None = no rotation.
    """
    q, k, v = _RotatedHeads.apply(qkv, rotations_SK, num_heads, num_kv_heads)
    return q, k, v


class _RotatedHeads(torch.autograd.Function):
    """Multiply each pair of features, as a complex number, by its rotation; the gradient is rotated back."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, rotations_SK: Tensor | None, num_heads: int, num_kv_heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.rotations_SK = rotations_SK
        ctx.shape = qkv.shape
        rotated = num_heads + num_kv_heads
        heads_BSNK = qkv.unflatten(-1, (rotated + num_kv_heads, -1))
        qk, v = heads_BSNK[..., :rotated, :], heads_BSNK[..., rotated:, :]
        if rotations_SK is not None:
            qk = _rotate(qk, rotations_SK, torch.empty(qk.shape, dtype=qk.dtype, device=qk.device))
        q, k = qk[..., :num_heads, :], qk[..., num_heads:, :]
        return q.transpose(-3, -2), k.transpose(-3, -2), v.transpose(-3, -2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        parts = [u.transpose(-3, -2) for u in upstream]
        d = torch.empty(ctx.shape, dtype=parts[0].dtype, device=parts[0].device)
        counts = [u_BSNK.shape[-2] for u_BSNK in parts]
        places = d.unflatten(-1, (sum(counts), -1)).split(counts, dim=-2)
        for i, (u_BSNK, d_BSNK) in enumerate(zip(parts, places, strict=True)):
            if i == 2 or ctx.rotations_SK is None:
                d_BSNK.copy_(u_BSNK)
            else:
                _rotate(u_BSNK, ctx.rotations_SK.conj(), d_BSNK)
        return d, None, None, None


def _rotate(x_BSNK: Tensor, rotations_SK: Tensor, out: Tensor) -> Tensor:
    rotations = rotations_SK[:, None]
    if x_BSNK.stride(-1) != 1:  # a gradient can have any layout
        x_BSNK = x_BSNK.contiguous()
    if x_BSNK.dtype == torch.float32 and rotations.dtype == torch.complex64:
        pairs = torch.view_as_complex(x_BSNK.unflatten(-1, (-1, 2)))
        torch.mul(pairs, rotations, out=torch.view_as_complex(out.unflatten(-1, (-1, 2))))
    else:
        out.copy_(rotate(x_BSNK, rotations))
    return out


ROWS = 128
"""Query rows of a block. Half of the last square of a block's scores is masked, which is wasted work."""
ELEMENTS = 2**18
"""Most scores of a block, unless one head has more: about what a core's cache holds."""


def suits(q_BHSK: Tensor) -> bool:
    """Whether :func:`causal_attention` is the fastest kernel: on a CPU, in float32 or float64."""
    return q_BHSK.device.type == "cpu" and q_BHSK.dtype in (torch.float32, torch.float64) and q_BHSK.dim() == 4


# Custom operators: torch.compile calls them as they are and compiles the code around them.
@torch.library.custom_op("groundup::causal_attention", mutates_args=())
def causal_attention(q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor) -> Tensor:
    """``softmax(q kᵀ / sqrt(K)) v`` over each position and those before it -> ``(B, H, S, K)``.

    torch's fused kernel multiplies its blocks one by one, each too small to reach the speed of a GEMM. Here a block is
    some rows of several heads that stays in the cache, and its matmuls are batched. The backward pass recomputes the
    scores (Dao et al. 2022); only the inputs are saved.
    """
    out_BHSK = _new_heads(q_BHSK)
    for rows, keys in _blocks(q_BHSK):
        torch.bmm(_probabilities(q_BHSK[rows], k_BHSK[keys]), v_BHSK[keys], out=out_BHSK[rows])
    return out_BHSK


@torch.library.custom_op("groundup::causal_attention_backward", mutates_args=())
def _backward(u_BHSK: Tensor, q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With P the softmax of the scaled scores, O = P V and upstream U:

    dV = Pᵀ U;   dP = U Vᵀ;   dS = P (dP - sum(P dP)) / sqrt(K);   dQ = dS K;   dK = dSᵀ Q
    """
    dq, dk, dv = _new_heads(q_BHSK), _new_heads(k_BHSK).zero_(), _new_heads(v_BHSK).zero_()
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
    """Indices of the queries of each block, and of the keys that they attend to."""
    batch, num_heads, length, _ = q_BHSK.shape
    for b in range(batch):
        for start in range(0, length, ROWS):
            end = min(length, start + ROWS)
            heads_per_block = max(1, ELEMENTS // ((end - start) * end))
            for first in range(0, num_heads, heads_per_block):
                heads = slice(first, first + heads_per_block)
                yield (b, heads, slice(start, end)), (b, heads, slice(0, end))


def _new_heads(x_BHSK: Tensor) -> Tensor:
    # Positions outermost in memory, as the matmuls before and after attention have them.
    batch, num_heads, length, head_dim = x_BHSK.shape
    return x_BHSK.new_empty(batch, length, num_heads, head_dim).transpose(1, 2)


@causal_attention.register_fake
def _(q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor) -> Tensor:
    return _new_heads(q_BHSK)


@_backward.register_fake
def _(u_BHSK: Tensor, q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _new_heads(q_BHSK), _new_heads(k_BHSK), _new_heads(v_BHSK)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


causal_attention.register_autograd(lambda ctx, u_BHSK: _backward(u_BHSK, *ctx.saved_tensors), setup_context=_save)
