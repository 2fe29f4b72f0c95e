"""RMSNorm, the gate of SwiGLU, and products that share their input, with their gradients written out.

Autograd runs one operation after the other and keeps what each one needs, so an elementwise formula of four steps reads
and writes main memory a dozen times. Here each formula keeps its input only and goes through it some rows at a time,
which stay in the cache from the first step to the last. torch.compile does the same by itself, so compiled models use
the plain formulas of :mod:`groundup.nn.layers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Shapes: N rows (all leading axes), D d_model, F d_ff, M outputs of all products together, S sequence, H query heads,
# G heads of keys and values, K head size.


def shared_input_product(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """``x Wᵀ`` for several weights ``(M_i, D)`` at once: x ``(..., D)`` -> ``(..., M)``, side by side.

    One large product is quicker than several small ones, and its gradient by x is one product and no sum.
    """
    product: Tensor = _SharedInputProduct.apply(x, *weights)
    return product


def make_neighbours(weights: Sequence[nn.Parameter]) -> None:
    """Move weights of equal width into one piece of memory, one after the other; they stay parameters of their own."""
    if _neighbours(weights) is None:
        both = torch.cat([weight.detach() for weight in weights])
        for weight, part in zip(weights, both.split([len(weight) for weight in weights]), strict=True):
            weight.data = part


def _neighbours(weights: Sequence[Tensor]) -> Tensor | None:
    """The weights as one matrix, if they lie one after the other in memory."""
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


class _SharedInputProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights_MD: Tensor) -> Tensor:
        all_MD = _side_by_side(weights_MD, x.dtype)
        # A copy of weights that lie apart is made again for the gradient: under FSDP they are whole only while they are
        # needed, and a copy would stay.
        apart = _neighbours(weights_MD) is None
        ctx.save_for_backward(x, *(weights_MD if apart else [all_MD]))
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
    all_MD = _neighbours(weights_MD)
    if all_MD is None:
        all_MD = torch.cat([weight.to(dtype) for weight in weights_MD])
    return all_MD.to(dtype)


def rotated_heads(
    qkv: Tensor, rotations_SK: Tensor | None, num_heads: int, num_kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries ``(B, H, S, K)``, keys and values ``(B, G, S, K)`` of ``(B, S, (H + 2 G) K)``, the first two rotated by
    the rotary angles.

    Args:
        rotations_SK: ``exp(i angle)``, complex ``(S, K/2)``; None rotates nothing.
    """
    q, k, v = _RotatedHeads.apply(qkv, rotations_SK, num_heads, num_kv_heads)
    return q, k, v


class _RotatedHeads(torch.autograd.Function):
    """Each pair of features as a complex number times its rotation; the gradient is rotated back."""

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
    if x_BSNK.stride(-1) != 1:  # a gradient may come in any layout
        x_BSNK = x_BSNK.contiguous()
    if x_BSNK.dtype == torch.float32 and rotations.dtype == torch.complex64:
        pairs = torch.view_as_complex(x_BSNK.unflatten(-1, (-1, 2)))
        torch.mul(pairs, rotations, out=torch.view_as_complex(out.unflatten(-1, (-1, 2))))
    else:
        wide = x_BSNK.to(torch.promote_types(x_BSNK.dtype, torch.float32))
        pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous())
        out.copy_(torch.view_as_real(pairs * rotations).flatten(-2))
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x²) + eps) · weight`` over the last axis, in float32 or wider; the result has x's dtype."""
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
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        x_ND = x.reshape(-1, x.shape[-1])
        y_ND = torch.empty_like(x_ND)
        rms_N1 = torch.empty(len(x_ND), 1, dtype=wide, device=x.device)
        g_D = weight_D.to(wide)
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
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        x_ND, weight_D, rms_N1 = ctx.saved_tensors
        u = upstream[0]
        u_ND = u.reshape(x_ND.shape)
        wide = rms_N1.dtype
        g_D = weight_D.to(wide)
        dx_ND = torch.empty_like(x_ND)
        dg_D = torch.zeros_like(g_D)
        for rows in row_blocks(x_ND, 4):
            here, inverse = u_ND[rows].to(wide), rms_N1[rows]
            normed = x_ND[rows].to(wide) * inverse
            product = here * normed
            dg_D += product.sum(0)
            mean_N1 = (product @ g_D).div_(len(g_D)).unsqueeze_(1)
            dx = torch.mul(here, g_D, out=product).addcmul_(normed, mean_N1, value=-1)
            if dx_ND.dtype == wide:
                torch.mul(dx, inverse, out=dx_ND[rows])
            else:
                dx_ND[rows] = dx.mul_(inverse)
        return dx_ND.view(u.shape), dg_D.to(weight_D.dtype), None


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
    """Slices of so many rows that they and the temporaries fit a CPU core's cache; elsewhere all rows at once."""
    if x_ND.device.type != "cpu":
        yield slice(None)
        return
    rows = max(16, 2**20 // (x_ND.shape[-1] * temporaries))
    for start in range(0, len(x_ND), rows):
        yield slice(start, start + rows)
