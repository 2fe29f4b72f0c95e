"""Fast layers: RMSNorm, the gate of SwiGLU, and linear layers that share their input, with hand-written gradients.

Autograd runs one operation after the other and saves what each one needs, so an elementwise formula of four steps reads
and writes main memory a dozen times. Here each formula saves its input only and processes it in blocks of rows that
stay in the cache from the first step to the last. torch.compile fuses the plain formulas by itself, so compiled models
run those of :mod:`groundup.nn.layers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from groundup.nn.layers import RMSNorm, SwiGLU

# Shapes: N rows (all leading axes), D d_model, F d_ff, M outputs of all linear layers together.


class FastRMSNorm(RMSNorm):
    """RMSNorm with a hand-written gradient; the weight is that of the norm it replaces."""

    def __init__(self, plain: RMSNorm):
        nn.Module.__init__(self)
        self.eps, self.d_model, self.weight = plain.eps, plain.d_model, plain.weight

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(x)
        return rms_norm(x, self.weight, self.eps)


class FastSwiGLU(SwiGLU):
    """SwiGLU with W1 and W3 as one matmul and a hand-written gradient of the gate.

    It holds the linear layers of the network it replaces, whose weights it packs.
    """

    def __init__(self, plain: SwiGLU):
        nn.Module.__init__(self)
        self.w1, self.w2, self.w3 = plain.w1, plain.w2, plain.w3
        pack([self.w1.weight, self.w3.weight])

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(x)
        return self.w2(silu_gate(packed_linear(x, (self.w1.weight, self.w3.weight))))


def packed_linear(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """``x Wᵀ`` for several weights ``(M_i, D)`` in one matmul: x ``(..., D)`` -> ``(..., M)``, side by side.

    One large matmul is faster than several small ones, and its gradient by x is one matmul without a sum. Weights that
    are not packed (:func:`pack`) are copied into one buffer first.
    """
    outputs: Tensor = _PackedLinear.apply(x, *weights)
    return outputs


def pack(weights: Sequence[Tensor]) -> None:
    """Make the weights, of equal width, views of one contiguous buffer. Each remains a separate Parameter or buffer.

    An optimization only: a copy, another device or dtype, FSDP and ``load_state_dict(assign=True)`` separate them
    again, and :func:`packed_linear` gives the same result either way.
    """
    if as_one_matrix(weights) is None:
        buffer = torch.cat([weight.detach() for weight in weights])
        for weight, part in zip(weights, buffer.split([len(weight) for weight in weights]), strict=True):
            weight.data = part


def as_one_matrix(weights: Sequence[Tensor]) -> Tensor | None:
    """Return the weights as one matrix ``(M, D)`` that shares their memory if they are packed, else None."""
    first = weights[0].detach()
    if not first.is_contiguous():
        return None
    end, storage = first.storage_offset(), first.untyped_storage().data_ptr()
    for weight in weights:
        follows = weight.storage_offset() == end and weight.untyped_storage().data_ptr() == storage
        if not follows or not weight.is_contiguous():
            return None
        end += weight.numel()
    return first.as_strided((sum(map(len, weights)), first.shape[1]), (first.shape[1], 1))


class _PackedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights_MD: Tensor) -> Tensor:
        all_MD = _side_by_side(weights_MD, x.dtype)
        # A copy of separate weights is made again for the gradient: FSDP gathers weights only while they are needed,
        # and a saved copy would stay in memory.
        separate = as_one_matrix(weights_MD) is None
        ctx.save_for_backward(x, *(weights_MD if separate else [all_MD]))
        ctx.sizes, ctx.dtype = [len(weight) for weight in weights_MD], weights_MD[0].dtype
        return x @ all_MD.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, ...]:
        x, *weights_MD = ctx.saved_tensors
        all_MD = _side_by_side(weights_MD, x.dtype)
        u_NM = upstream[0].reshape(-1, len(all_MD))
        dx = upstream[0] @ all_MD
        d_MD = (u_NM.T @ x.reshape(-1, x.shape[-1])).to(ctx.dtype)
        return dx, *d_MD.split(ctx.sizes)


def _side_by_side(weights_MD: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    all_MD = as_one_matrix(weights_MD)
    if all_MD is None:
        all_MD = torch.cat([weight.to(dtype) for weight in weights_MD])
    return all_MD.to(dtype)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """``x / sqrt(mean(x²) + eps) · weight`` over the last axis, in float32 or wider; the result has x's dtype.

    Without a weight the gains are 1.
    """
    normed: Tensor = _RMSNorm.apply(x, weight, eps)
    return normed


def silu_gate(gate_up: Tensor) -> Tensor:
    """``silu(a) · b`` of ``(..., 2F)`` that holds a and b side by side -> ``(..., F)``."""
    gated: Tensor = _SiLUGate.apply(gate_up)
    return gated


class _RMSNorm(torch.autograd.Function):
    """With r = 1 / sqrt(mean(x²) + eps), y = x r g and upstream u:

    dg = sum over rows of u x r;   dx = r (u g - x r · mean(u g x r))
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor | None, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        x_ND = x.reshape(-1, x.shape[-1])
        y_ND = torch.empty_like(x_ND)
        rms_N1 = torch.empty(len(x_ND), 1, dtype=wide, device=x.device)
        g_D = 1.0 if weight_D is None else weight_D.to(wide)
        for rows in row_blocks(x_ND, 4):
            here = x_ND[rows].to(wide)
            inverse = torch.linalg.vector_norm(here, dim=-1, keepdim=True).square_()
            inverse.div_(here.shape[-1]).add_(eps).rsqrt_()
            rms_N1[rows] = inverse
            if y_ND.dtype == wide:
                torch.mul(here, inverse, out=y_ND[rows]).mul_(g_D)
            else:
                y_ND[rows] = here.mul(inverse).mul_(g_D)
        ctx.save_for_backward(x_ND, weight_D, rms_N1)
        return y_ND.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x_ND, weight_D, rms_N1 = ctx.saved_tensors
        u = upstream[0]
        u_ND = u.reshape(x_ND.shape)
        wide = rms_N1.dtype
        g_D = rms_N1.new_ones(x_ND.shape[-1]) if weight_D is None else weight_D.to(wide)
        dx_ND = torch.empty_like(x_ND)
        dg_D = torch.zeros_like(g_D)
        for rows in row_blocks(x_ND, 4):
            here, inverse = u_ND[rows].to(wide), rms_N1[rows]
            normed = x_ND[rows].to(wide) * inverse
            weighted = here * normed
            dg_D += weighted.sum(0)
            mean_N1 = (weighted @ g_D).div_(len(g_D)).unsqueeze_(1)
            dx = torch.mul(here, g_D, out=weighted).addcmul_(normed, mean_N1, value=-1)
            if dx_ND.dtype == wide:
                torch.mul(dx, inverse, out=dx_ND[rows])
            else:
                dx_ND[rows] = dx.mul_(inverse)
        return dx_ND.view(u.shape), None if weight_D is None else dg_D.to(weight_D.dtype), None


class _SiLUGate(torch.autograd.Function):
    """With s = sigmoid(a), y = a s b and upstream u:   da = u b s (1 + a (1 - s)),   db = u a s."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        ab_N2F = gate_up.reshape(-1, gate_up.shape[-1])
        half = ab_N2F.shape[-1] // 2
        y_NF = ab_N2F.new_empty(len(ab_N2F), half)
        for rows in row_blocks(ab_N2F, 4):
            a, b = ab_N2F[rows, :half], ab_N2F[rows, half:]
            torch.mul(torch.sigmoid(a).mul_(a), b, out=y_NF[rows])
        return y_NF.view(*gate_up.shape[:-1], half)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        ab_N2F = gate_up.reshape(-1, gate_up.shape[-1])
        half = ab_N2F.shape[-1] // 2
        u_NF = upstream[0].reshape(-1, half)
        d_N2F = torch.empty_like(ab_N2F)
        for rows in row_blocks(ab_N2F, 6):
            a, b, u = ab_N2F[rows, :half], ab_N2F[rows, half:], u_NF[rows]
            da, db = d_N2F[rows, :half], d_N2F[rows, half:]
            s = torch.sigmoid(a)
            silu = torch.mul(a, s)
            torch.mul(u, silu, out=db)
            # s (1 + a (1 - s)) = s + silu (1 - s) = s + silu - silu s
            slope = torch.addcmul(s + silu, silu, s, value=-1)
            torch.mul(slope.mul_(b), u, out=da)
        return d_N2F.view(gate_up.shape)


def row_blocks(x_ND: Tensor, temporaries: int) -> Iterator[slice]:
    """Slices of rows that fit a CPU core's cache together with their temporaries; on other devices all rows at once."""
    if x_ND.device.type != "cpu":
        yield slice(None)
        return
    rows = max(16, 2**20 // (x_ND.shape[-1] * temporaries))
    for start in range(0, len(x_ND), rows):
        yield slice(start, start + rows)
