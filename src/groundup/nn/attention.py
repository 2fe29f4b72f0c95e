"""Rotary positions, multi-head causal self-attention, and the key/value cache of generation."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from groundup.config.options import nearest_divisors
from groundup.errors import ConfigError
from groundup.nn.fast import blocked_attention
from groundup.nn.fast.fused import make_neighbours, rotated_heads, shared_input_product
from groundup.nn.functional import scaled_dot_product_attention
from groundup.nn.layers import Linear

# Shapes: B leading (batch) dimensions, S sequence, T keys seen so far, D d_model, H query heads, G heads of keys and
# values, K head size.


class RotaryPositionalEmbedding(nn.Module):
    """Turns each pair of features (2k, 2k+1) by the angle ``position · theta^(-2k/d_k)`` (Su et al. 2021, eq. 34).

    The dot product of two rotated vectors then depends on the distance of their positions only. No parameters:
    the tables of cosines and sines are non-persistent buffers and stay float32 when a model is cast to a
    16-bit dtype, where late positions would become indistinguishable.

    Args:
        theta: base of the angles.
        d_k: size of the rotated (last) axis, even.
        max_seq_len: number of positions tabulated.

    Raises:
        ConfigError: d_k is odd.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, theta: float, d_k: int, max_seq_len: int, device: torch.device | str | None = None):
        super().__init__()
        if d_k % 2:
            raise ConfigError(f"head size d_k = {d_k} is odd, but RoPE rotates pairs of features; choose an even one")
        self.theta, self.d_k, self.max_seq_len = theta, d_k, max_seq_len
        for name, table in self._tables(device, torch.float32).items():
            self.register_buffer(name, table, persistent=False)

    def _tables(self, device: torch.device | str | None, dtype: torch.dtype) -> dict[str, Tensor]:
        # float64 throughout: a float32 angle of position 10,000 is already off by 1e-3 rad.
        frequencies = self.theta ** (-torch.arange(0, self.d_k, 2, dtype=torch.float64) / self.d_k)
        angles = torch.outer(torch.arange(self.max_seq_len, dtype=torch.float64), frequencies)
        return {"cos": angles.cos().to(device, dtype), "sin": angles.sin().to(device, dtype)}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        had_no_memory = self.cos.is_meta
        super()._apply(fn, recurse)
        if not self.cos.is_meta and (had_no_memory or self.cos.dtype != torch.float32):
            wide = torch.promote_types(self.cos.dtype, torch.float32)
            for name, table in self._tables(self.cos.device, wide).items():
                setattr(self, name, table)
        return self

    def forward(self, x: Tensor, token_positions: Tensor | None = None) -> Tensor:
        """Turn ``x (..., S, d_k)``; ``token_positions (..., S)`` defaults to 0..S-1. Output has x's dtype.

        Raises:
            ConfigError: more positions than max_seq_len.
        """
        if token_positions is None:
            self._check_length(x.shape[-2])
            cos, sin = self.cos[: x.shape[-2]], self.sin[: x.shape[-2]]
        else:
            if token_positions.device.type == "cpu" and token_positions.numel():
                self._check_length(int(token_positions.max()) + 1)
            cos, sin = self.cos[token_positions], self.sin[token_positions]
        if torch.compiler.is_compiling():  # which fuses real arithmetic, but not complex
            even, odd = x[..., 0::2], x[..., 1::2]
            rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
        else:  # the pair (a, b) as a + ib, times e^(i angle): the same numbers in a quarter of the time
            wide = x.to(torch.promote_types(x.dtype, cos.dtype))
            pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous())
            rotated = torch.view_as_real(pairs * torch.complex(cos, sin))
        return rotated.flatten(-2).to(x.dtype)

    def rotations(self, length: int) -> Tensor:
        """``exp(i angle)`` of the first positions, complex ``(length, d_k / 2)``.

        Raises:
            ConfigError: more positions than max_seq_len.
        """
        self._check_length(length)
        return torch.complex(self.cos[:length], self.sin[:length])

    def _check_length(self, positions: int) -> None:
        if positions > self.max_seq_len:
            raise ConfigError(
                f"sequence reaches {positions} positions, but the model was built for context_length = "
                f"{self.max_seq_len}; shorten the input"
            )


class KVCache:
    """Keys and values of the tokens already seen, for one attention layer.

    Args:
        shape: ``(..., H, capacity, K)``.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device | str | None, dtype: torch.dtype):
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store ``(..., H, S, K)`` after what is there and return all of it, ``(..., H, T, K)``."""
        end = self.length + k.shape[-2]
        self.keys[..., self.length : end, :] = k
        self.values[..., self.length : end, :] = v
        self.length = end
        return self.keys[..., :end, :], self.values[..., :end, :]


class MultiHeadSelfAttention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017, sec. 3.2.2), its keys and values shared by groups of query
    heads if asked (Ainslie et al. 2023).

    Args:
        d_model: width D, a multiple of num_heads H; each head has size K = D / H.
        num_kv_heads: heads G of keys and values, a divisor of H; H by default. Query head i attends with head i G / H.
        rope: shared rotary embedding applied to queries and keys; None = no position information.
        flash: a fused kernel, which never holds the S x S scores; otherwise our own formula.
        fast: the three products as one, and the rotation on the spot (:mod:`groundup.nn.fast.fused`); the fused kernel
            of a CPU is then our own (:mod:`groundup.nn.fast.blocked_attention`).

    Shapes: x ``(..., S, D)`` -> the same; state: ``{q,output}_proj.weight (D, D)``, ``{k,v}_proj.weight (G K, D)``,
    rows head after head.

    Raises:
        ConfigError: num_heads does not divide d_model, num_kv_heads not num_heads, or rope has another head size.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        rope: RotaryPositionalEmbedding | None = None,
        *,
        num_kv_heads: int | None = None,
        flash: bool = False,
        fast: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if num_heads < 1 or d_model % num_heads:
            nearest = ", ".join(map(str, nearest_divisors(d_model, num_heads)))
            raise ConfigError(
                f"num_heads = {num_heads} does not divide d_model = {d_model}; nearest that do: {nearest}"
            )
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_kv_heads < 1 or num_heads % num_kv_heads:
            nearest = ", ".join(map(str, nearest_divisors(num_heads, num_kv_heads)))
            raise ConfigError(
                f"num_kv_heads = {num_kv_heads} does not divide num_heads = {num_heads}; nearest that do: {nearest}"
            )
        if rope is not None and rope.d_k != d_model // num_heads:
            raise ConfigError(
                f"rope.d_k = {rope.d_k}, but d_model / num_heads = {d_model} / {num_heads} = {d_model // num_heads}; "
                f"make the rotary embedding for that head size"
            )
        self.num_heads, self.num_kv_heads, self.rope, self.flash, self.fast = num_heads, num_kv_heads, rope, flash, fast
        kv_width = num_kv_heads * (d_model // num_heads)
        self.q_proj = Linear(d_model, d_model, device, dtype)
        self.k_proj = Linear(d_model, kv_width, device, dtype)
        self.v_proj = Linear(d_model, kv_width, device, dtype)
        self.output_proj = Linear(d_model, d_model, device, dtype)
        if fast:
            make_neighbours([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])

    def forward(self, x: Tensor, token_positions: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Attend from each position to itself and the earlier ones, those in ``cache`` included.

        Args:
            token_positions: ``(..., S)``, broadcast over the batch; default: counted on from the cache's length.
        """
        if self.fast and token_positions is None and cache is None and not torch.compiler.is_compiling():
            return self._forward_fast(x)
        q_BHSK, k_BGSK, v_BGSK = (
            _heads(project(x), count)
            for project, count in (
                (self.q_proj, self.num_heads),
                (self.k_proj, self.num_kv_heads),
                (self.v_proj, self.num_kv_heads),
            )
        )
        past = cache.length if cache is not None else 0
        if self.rope is not None:
            if token_positions is None and past:
                token_positions = torch.arange(past, past + x.shape[-2], device=x.device)
            elif token_positions is not None:
                token_positions = token_positions.unsqueeze(-2)  # one axis for the heads
            q_BHSK, k_BGSK = self.rope(q_BHSK, token_positions), self.rope(k_BGSK, token_positions)
        if cache is None:
            k_BGTK, v_BGTK = k_BGSK, v_BGSK
        else:
            k_BGTK, v_BGTK = cache.append(k_BGSK, v_BGSK)
        attended_BHSK = self._attend(q_BHSK, k_BGTK, v_BGTK)
        return self.output_proj(attended_BHSK.transpose(-3, -2).flatten(-2))

    def _forward_fast(self, x: Tensor) -> Tensor:
        qkv = shared_input_product(x, (self.q_proj.weight, self.k_proj.weight, self.v_proj.weight))
        rotations = None if self.rope is None else self.rope.rotations(x.shape[-2])
        q_BHSK, k_BGSK, v_BGSK = rotated_heads(qkv, rotations, self.num_heads, self.num_kv_heads)
        return self.output_proj(self._attend(q_BHSK, k_BGSK, v_BGSK).transpose(-3, -2).flatten(-2))

    def _attend(self, q_BHSK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor) -> Tensor:
        queries, keys = q_BHSK.shape[-2], k_BGTK.shape[-2]
        k_BHTK, v_BHTK = (_repeated(x, self.num_heads // self.num_kv_heads) for x in (k_BGTK, v_BGTK))
        if not self.flash:
            mask = causal_mask(queries, keys, q_BHSK.device)
            return scaled_dot_product_attention(q_BHSK, k_BHTK, v_BHTK, mask)
        # The fused kernel aligns its own causal mask with the first key; with a cache ours aligns with the last.
        aligned = queries == keys
        if self.fast and aligned and blocked_attention.suits(q_BHSK):
            return blocked_attention.causal_attention(q_BHSK, k_BHTK, v_BHTK)
        cached_mask = None if aligned or queries == 1 else causal_mask(queries, keys, q_BHSK.device)
        return torch.nn.functional.scaled_dot_product_attention(
            q_BHSK, k_BHTK, v_BHTK, attn_mask=cached_mask, is_causal=aligned
        )


def _heads(x_BSD: Tensor, count: int) -> Tensor:
    return x_BSD.unflatten(-1, (count, -1)).transpose(-3, -2)


def _repeated(x_BGTK: Tensor, times: int) -> Tensor:
    """Each head so many times in a row: ``(..., G, T, K)`` -> ``(..., G times, T, K)``."""
    return x_BGTK if times == 1 else x_BGTK.repeat_interleave(times, dim=-3)


def causal_mask(queries: int, keys: int, device: torch.device | None = None) -> Tensor:
    """``(queries, keys)`` boolean, True where a query may look; the last query stands at the last key."""
    positions = torch.arange(keys, device=device)
    return positions[keys - queries :, None] >= positions[None, :]
