"""Rotary position embedding, multi-head causal self-attention, and the key/value cache of generation."""

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from groundup.config import ModelConfig
from groundup.config.options import GATE_CHANNELS
from groundup.errors import ConfigError
from groundup.nn.course import attention_sizes, or_sizes
from groundup.nn.functional import causal_mask, scaled_dot_product_attention
from groundup.nn.layers import Linear, new_norm

# Shapes: B leading (batch) dimensions, S sequence, T keys of the cache and the sequence, D d_model, H query heads,
# G heads of keys and values, K head size.


class RotaryPositionalEmbedding(nn.Module):
    """Rotate each pair of features (2k, 2k+1) by the angle ``position · theta^(-2k/d_k)`` (Su et al. 2021, eq. 34).

    The dot product of two rotated vectors then depends on the distance of their positions only. No parameters:
    the cos/sin tables are non-persistent buffers and stay float32 when a model is cast to a 16-bit dtype, where late
    positions would become indistinguishable.

    Args:
        theta: base of the angles.
        d_k: size of the rotated (last) axis, even.
        max_seq_len: number of positions in the tables.
        config: its ``rope_scaling`` and the numbers that go with it; None leaves the frequencies as they are.

    Raises:
        ConfigError: d_k is odd.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        theta: float,
        d_k: int,
        max_seq_len: int,
        device: torch.device | str | None = None,
        *,
        config: ModelConfig | None = None,
    ):
        super().__init__()
        if d_k % 2:
            raise ConfigError(f"head size d_k = {d_k} is odd, but RoPE rotates pairs of features; choose an even one")
        self.theta, self.d_k, self.max_seq_len, self.config = theta, d_k, max_seq_len, config
        for name, table in self._compute_tables(device, torch.float32).items():
            self.register_buffer(name, table, persistent=False)

    def _compute_tables(self, device: torch.device | str | None, dtype: torch.dtype) -> dict[str, Tensor]:
        # float64 throughout: a float32 angle of position 10,000 is already off by 1e-3 rad.
        frequencies = self.theta ** (-torch.arange(0, self.d_k, 2, dtype=torch.float64) / self.d_k)
        if self.config is not None:
            frequencies = scaled_frequencies(frequencies, self.config)
        angles = torch.outer(torch.arange(self.max_seq_len, dtype=torch.float64), frequencies)
        return {"cos": angles.cos().to(device, dtype), "sin": angles.sin().to(device, dtype)}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        # Anew each time: to_empty() leaves tables without content, and calls this once for each layer that shares them.
        if not self.cos.is_meta:
            wide = torch.promote_types(self.cos.dtype, torch.float32)
            for name, table in self._compute_tables(self.cos.device, wide).items():
                setattr(self, name, table)
        return self

    def tables(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the first positions, ``(length, d_k / 2)`` each.

        Raises:
            ConfigError: more positions than max_seq_len.
        """
        if length > self.max_seq_len:
            raise ConfigError(
                f"sequence reaches {length} positions, but the model was built for context_length = "
                f"{self.max_seq_len}; shorten the input"
            )
        return self.cos[:length], self.sin[:length]

    def extend(self, positions: int) -> None:
        """Make room for at least this many positions, at least twice those there are."""
        if positions > self.max_seq_len:
            before, self.max_seq_len = self.max_seq_len, max(positions, 2 * self.max_seq_len)
            try:
                for name, table in self._compute_tables(self.cos.device, self.cos.dtype).items():
                    setattr(self, name, table)
            except BaseException:  # as by Ctrl-C: the next call computes them again
                self.max_seq_len = before
                raise

    def rescale(self, theta: float, positions: int) -> None:
        """Take other angles, for this many positions."""
        self.theta, self.max_seq_len = theta, positions
        for name, table in self._compute_tables(self.cos.device, self.cos.dtype).items():
            setattr(self, name, table)

    def forward(self, x: Tensor, token_positions: Tensor | None = None) -> Tensor:
        """Rotate ``x (..., S, d_k)``; ``token_positions (..., S)`` defaults to 0..S-1. Output has x's dtype.

        Raises:
            ConfigError: more positions than max_seq_len.
        """
        if token_positions is None:
            cos, sin = self.tables(x.shape[-2])
        else:
            length = self.max_seq_len
            on_cpu = token_positions.device.type == "cpu"  # elsewhere, and in compiled code, a check would wait for it
            if on_cpu and token_positions.numel() and not torch.compiler.is_compiling():
                length = int(token_positions.max()) + 1
            cos, sin = (table[token_positions] for table in self.tables(length))
        if not torch.compiler.is_compiling():
            return rotate(x, torch.complex(cos, sin))
        # The same in real numbers: TorchInductor generates no code for complex ones.
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.d_k}, theta={self.theta:g}, positions={self.max_seq_len}"


def scaled_frequencies(frequencies: Tensor, config: ModelConfig) -> Tensor:
    """Rotary frequencies, in radians per position, as ``rope_scaling`` stretches them.

    linear: all divided by the factor (Chen et al. 2023). llama3: those with few rotations in the original context
    divided, those with many kept, and a weighted mean of the two between (Llama 3.1's ``apply_scaling``).
    """
    if config.rope_scaling == "none":
        return frequencies
    divided = frequencies / config.rope_factor
    if config.rope_scaling == "linear":
        return divided
    rotations = config.rope_original_context * frequencies / (2 * math.pi)
    low, high = config.rope_low_frequency, config.rope_high_frequency
    kept = ((rotations - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * divided + kept * frequencies


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Multiply each pair (a, b) of the last axis, as the complex number a + ib, by ``rotations = exp(i angle)``."""
    wide = x.to(torch.promote_types(x.dtype, rotations.dtype.to_real()))
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rotations).flatten(-2).to(x.dtype)


class KVCache:
    """Keys and values of the tokens already seen, for one attention layer.

    Args:
        shape: ``(..., G, capacity, K)``.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device | str | None, dtype: torch.dtype):
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        self.length = 0

    mask: Tensor | None = None
    """Which keys each query may attend to; None: causal, the last query aligned with the last key."""

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store ``(..., G, S, K)`` after the cached tokens and return all of them, ``(..., G, T, K)``."""
        end = self.length + k.shape[-2]
        self.keys[..., self.length : end, :] = k
        self.values[..., self.length : end, :] = v
        self.length = end
        return self.keys[..., :end, :], self.values[..., :end, :]


class MultiHeadSelfAttention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017, sec. 3.2.2), with grouped-query attention where
    ``num_kv_heads`` is below ``num_heads`` (Ainslie et al. 2023): query head i attends with key/value head i G / H.

    The course's form is ``MultiHeadSelfAttention(d_model, num_heads, rope=None, *, num_kv_heads=None)``.

    Args:
        config: sizes of the layer.
        layer_index: index of the block that the layer belongs to.
        rope: rotary embedding applied to queries and keys, shared by all layers; None = no position information.

    Shapes: x ``(..., S, D)`` -> the same; state: ``q_proj.weight (H K, D)``, ``{k,v}_proj.weight (G K, D)``, rows head
    after head, ``output_proj.weight (D, H K)``; ``{q,k}_norm.weight (K,)`` with ``qk_norm``; ``{q,k,v}_proj.bias`` with
    ``qkv_bias``; ``value_gate.weight (G, 12)`` in a layer with value embeddings.

    Raises:
        ConfigError: the head size of rope is another.
    """

    @or_sizes(attention_sizes)
    def __init__(
        self,
        config: ModelConfig,
        layer_index: int = 0,
        rope: RotaryPositionalEmbedding | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        d_model, head_dim = config.d_model, config.head_dim
        if rope is not None and rope.d_k != head_dim:
            size = f"d_model / num_heads = {d_model} / {config.num_heads}" if not config.head_size else "head_size"
            raise ConfigError(
                f"rope.d_k = {rope.d_k}, but {size} = {head_dim}; create the rotary embedding for that head size"
            )
        self.layer_index, self.rope = layer_index, rope
        self.num_heads, self.num_kv_heads = config.num_heads, config.kv_heads
        queries, keys, bias = config.num_heads * head_dim, config.kv_heads * head_dim, config.qkv_bias
        self.q_proj = Linear(d_model, queries, device, dtype, bias=bias)
        self.k_proj = Linear(d_model, keys, device, dtype, bias=bias)
        self.v_proj = Linear(d_model, keys, device, dtype, bias=bias)
        self.output_proj = Linear(queries, d_model, device, dtype)
        self.q_norm = new_norm(config, head_dim, device, dtype) if config.qk_norm else None
        self.k_norm = new_norm(config, head_dim, device, dtype) if config.qk_norm else None
        self.qk_scale = config.qk_scale
        self.value_gate: Linear | None = None
        if layer_index in config.value_layers:
            self.value_gate = Linear(GATE_CHANNELS, config.kv_heads, device, dtype, zero=True)

    def forward(
        self,
        x: Tensor,
        token_positions: Tensor | None = None,
        cache: KVCache | None = None,
        value_rows: Tensor | None = None,
    ) -> Tensor:
        """Attend from each position to itself and the earlier ones, those in ``cache`` included.

        Args:
            token_positions: ``(..., S)``, broadcast over the batch; by default they continue those of the cache.
            value_rows: ``(..., S, G K)``, the value embeddings of the tokens, in a layer that has them.
        """
        q_BHSK, k_BGTK, v_BGTK = self.project(x, token_positions, cache)
        if value_rows is not None:
            v_BGTK = v_BGTK + self._gated(value_rows, x)
        mask = None
        if cache is not None:
            k_BGTK, v_BGTK = cache.append(k_BGTK, v_BGTK)
            mask = cache.mask
        attended_BHSK = self.attend(q_BHSK, self._repeated(k_BGTK), self._repeated(v_BGTK), mask)
        return self.output_proj(attended_BHSK.transpose(-3, -2).flatten(-2))

    def project(
        self, x: Tensor, token_positions: Tensor | None, cache: KVCache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``(..., H, S, K)``, keys and values ``(..., G, S, K)`` of x, the first two normalized and rotated."""
        q_BHSK = _heads(self.q_proj(x), self.num_heads)
        k_BGSK = _heads(self.k_proj(x), self.num_kv_heads)
        v_BGSK = _heads(self.v_proj(x), self.num_kv_heads)
        if self.q_norm is not None:
            q_BHSK, k_BGSK = self.normalized(q_BHSK, k_BGSK)
        if self.rope is not None:
            if token_positions is not None:
                token_positions = token_positions.unsqueeze(-2)  # one axis for the heads
            elif cache is not None and cache.length:
                token_positions = torch.arange(cache.length, cache.length + x.shape[-2], device=x.device)
            q_BHSK, k_BGSK = self.rope(q_BHSK, token_positions), self.rope(k_BGSK, token_positions)
        return q_BHSK, k_BGSK, v_BGSK

    def normalized(self, q_BHSK: Tensor, k_BGSK: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys after their norms, times ``qk_scale``."""
        assert self.q_norm is not None
        assert self.k_norm is not None
        q_BHSK, k_BGSK = self.q_norm(q_BHSK), self.k_norm(k_BGSK)
        return (q_BHSK, k_BGSK) if self.qk_scale == 1 else (q_BHSK * self.qk_scale, k_BGSK * self.qk_scale)

    def _gated(self, value_rows: Tensor, x: Tensor) -> Tensor:
        """Value embeddings ``(..., G, S, K)`` times the gate of each head, 2 sigmoid(W x), which begins as 1."""
        assert self.value_gate is not None
        gate_BSG = 2 * torch.sigmoid(self.value_gate(x[..., :GATE_CHANNELS]))
        return _heads(value_rows, self.num_kv_heads) * gate_BSG.transpose(-2, -1).unsqueeze(-1)

    def extra_repr(self) -> str:
        return f"heads={self.num_heads}, kv_heads={self.num_kv_heads}"

    def attend(self, q_BHSK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention of the queries; without a mask causal, the last query aligned with the last key."""
        if mask is None:
            mask = causal_mask(q_BHSK.shape[-2], k_BHTK.shape[-2], q_BHSK.device)
        return scaled_dot_product_attention(q_BHSK, k_BHTK, v_BHTK, mask)

    def _repeated(self, x_BGTK: Tensor) -> Tensor:
        """Each key/value head once for every query head that shares it: ``(..., H, T, K)``."""
        times = self.num_heads // self.num_kv_heads
        return x_BGTK if times == 1 else x_BGTK.repeat_interleave(times, dim=-3)


def _heads(x_BSD: Tensor, count: int) -> Tensor:
    return x_BSD.unflatten(-1, (count, -1)).transpose(-3, -2)
