"""The Transformer block and the language model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from groundup.config import ModelConfig
from groundup.errors import ConfigError
from groundup.nn.attention import KVCache, MultiHeadSelfAttention, RotaryPositionalEmbedding
from groundup.nn.layers import Embedding, Linear, RMSNorm, SiLUFeedForward, SwiGLU
from groundup.nn.loss import linear_cross_entropy

# Shapes: B batch, S sequence, D d_model, V vocabulary.


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward network, each added to the residual stream.

    norm = "pre":   y = x + Attention(RMSNorm(x));  z = y + FFN(RMSNorm(y))   (Xiong et al. 2020)
    norm = "post":  y = RMSNorm(x + Attention(x));  z = RMSNorm(y + FFN(y))   (Vaswani et al. 2017)
    norm = "none":  y = x + Attention(x);           z = y + FFN(y)

    Shapes: x ``(..., S, D)`` -> the same; state: ``attn.*``, ``ffn.*``, and, where there are norms, ``ln1.weight``,
    ``ln2.weight``.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_ff: int,
        rope: RotaryPositionalEmbedding | None = None,
        *,
        num_kv_heads: int | None = None,
        norm: str = "pre",
        ffn: str = "swiglu",
        norm_eps: float = 1e-5,
        flash: bool = False,
        fast: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.norm = _choice("norm", norm, ("pre", "post", "none"))
        self.attn = MultiHeadSelfAttention(
            d_model, num_heads, rope, num_kv_heads=num_kv_heads, flash=flash, fast=fast, device=device, dtype=dtype
        )
        self.ffn: nn.Module
        if _choice("ffn", ffn, ("swiglu", "silu")) == "swiglu":
            self.ffn = SwiGLU(d_model, d_ff, device, dtype, fast=fast)
        else:
            self.ffn = SiLUFeedForward(d_model, d_ff, device, dtype)
        if norm != "none":
            self.ln1 = RMSNorm(d_model, norm_eps, device, dtype, fast=fast)
            self.ln2 = RMSNorm(d_model, norm_eps, device, dtype, fast=fast)

    def forward(self, x: Tensor, token_positions: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        match self.norm:
            case "pre":
                x = x + self.attn(self.ln1(x), token_positions, cache)
                return x + self.ffn(self.ln2(x))
            case "post":
                x = self.ln1(x + self.attn(x, token_positions, cache))
                return self.ln2(x + self.ffn(x))
            case _:
                x = x + self.attn(x, token_positions, cache)
                return x + self.ffn(x)


class TransformerLM(nn.Module):
    """Decoder-only language model: embedding, blocks, final RMSNorm (pre-norm only), output matrix.

    A post-norm block already ends in a norm, and norm = "none" means none at all, so both go without the final one.
    With ``tie_embeddings`` the output matrix is the embedding table, initialized with the output matrix's standard
    deviation so that the first loss is ln V either way, and its vectors are scaled back to unit variance where they
    enter the residual stream (as in Vaswani et al. 2017, sec. 3.4, whose factor is sqrt(D)).

    Args:
        vocab_size: V. context_length: longest S. d_model: D. d_ff: inner width of the feed-forward layer.
        rope_theta: base of the rotary angles; all layers share one table.
        num_kv_heads: heads of keys and values; num_heads by default.
        norm, position, ffn, tie_embeddings, norm_eps: as in :class:`groundup.config.ModelConfig`.
        flash: use torch's fused attention kernel.
        fast: products that share their input as one, and gradients written out (:mod:`groundup.nn.fast.fused`).

    Shapes: token ids ``(B, S)`` -> logits ``(B, S, V)``; state: ``token_embeddings.weight``,
    ``layers.{i}.*``, ``ln_final.weight``, ``lm_head.weight``.

    Raises:
        ConfigError: impossible shape, or a sequence longer than context_length.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        d_ff: int,
        rope_theta: float = 10_000.0,
        *,
        num_kv_heads: int | None = None,
        norm: str = "pre",
        position: str = "rope",
        ffn: str = "swiglu",
        tie_embeddings: bool = False,
        norm_eps: float = 1e-5,
        flash: bool = False,
        fast: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        _choice("position", position, ("rope", "none"))
        # The config knows which shapes are possible, and says why one is not.
        ModelConfig(
            vocab_size=vocab_size, context_length=context_length, d_model=d_model, num_layers=num_layers,
            num_heads=num_heads, num_kv_heads=num_kv_heads or 0, d_ff=d_ff, rope_theta=rope_theta,
            position=position, norm_eps=norm_eps,  # type: ignore[arg-type]
        )  # fmt: skip
        self.vocab_size, self.context_length = vocab_size, context_length
        self.num_kv_heads, self.head_dim = num_kv_heads or num_heads, d_model // num_heads
        self.compute_dtype: torch.dtype | None = None
        self.checkpoint_activations = False
        rope = None
        if position == "rope":
            rope = RotaryPositionalEmbedding(rope_theta, d_model // num_heads, context_length, device)
            rope = rope.to(dtype=dtype)
        head_std = math.sqrt(2 / (d_model + vocab_size))
        # Without norms nothing rescales the residual stream, and SwiGLU is quadratic in it: unit embeddings would
        # start eight layers at a loss of 1e29.
        embedding_std = head_std if tie_embeddings or norm == "none" else 1.0
        # A tied table is small for the head's sake. The residual stream wants unit vectors all the same: beside what
        # the layers add to it, a token of size 0.01 would be lost (docs/LAB.md has the loss curves).
        self.embedding_scale = 1 / head_std if tie_embeddings and norm != "none" else 1.0
        self.token_embeddings = Embedding(vocab_size, d_model, device, dtype, std=embedding_std)
        self.layers = nn.ModuleList(
            TransformerBlock(
                d_model, num_heads, d_ff, rope, num_kv_heads=num_kv_heads,
                norm=norm, ffn=ffn, norm_eps=norm_eps, flash=flash, fast=fast, device=device, dtype=dtype,
            )
            for _ in range(num_layers)
        )  # fmt: skip
        self.ln_final = RMSNorm(d_model, norm_eps, device, dtype, fast=fast) if norm == "pre" else None
        self.lm_head = Linear(d_model, vocab_size, device, dtype)
        if tie_embeddings:
            self.lm_head.weight = self.token_embeddings.weight

    @classmethod
    def from_config(
        cls,
        config: ModelConfig,
        *,
        flash: bool = False,
        fast: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> TransformerLM:
        """The model a config describes.

        Raises:
            ConfigError: config.vocab_size is still 0, to be taken from the data.
        """
        if config.vocab_size == 0:
            raise ConfigError("model.vocab_size = 0; a model needs the tokenizer's size, e.g. 10000")
        return cls(
            config.vocab_size, config.context_length, config.d_model, config.num_layers, config.num_heads,
            config.ffn_dim, config.rope_theta, num_kv_heads=config.kv_heads, norm=config.norm,
            position=config.position, ffn=config.ffn, tie_embeddings=config.tie_embeddings, norm_eps=config.norm_eps,
            flash=flash, fast=fast, device=device, dtype=dtype,
        )  # fmt: skip

    def forward(
        self,
        token_ids: Tensor,
        token_positions: Tensor | None = None,
        caches: Sequence[KVCache] | None = None,
        *,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Logits of the next token at every position; with ``caches``, of tokens that follow the cached ones.

        Everything runs in ``compute_dtype`` where it is set (mixed precision), in the weights' dtype otherwise. With
        ``checkpoint_activations`` only the input of each block is kept for the backward pass, which computes the rest
        again (Chen et al. 2016).

        Args:
            targets: ``(B, S)`` the tokens that do come next. Then the result is the mean loss, and the logits never
                exist as a whole (:func:`groundup.nn.linear_cross_entropy`).
        """
        past = caches[0].length if caches else 0
        if past + token_ids.shape[-1] > self.context_length:
            raise ConfigError(
                f"sequence of {past + token_ids.shape[-1]} tokens is longer than context_length = "
                f"{self.context_length}; keep the last {self.context_length} tokens"
            )
        x_BSD = self.token_embeddings(token_ids)
        if self.embedding_scale != 1:
            x_BSD = x_BSD * self.embedding_scale
        if self.compute_dtype is not None:
            x_BSD = x_BSD.to(self.compute_dtype)
        for i, layer in enumerate(self.layers):
            if self.checkpoint_activations and torch.is_grad_enabled() and caches is None:
                x_BSD = checkpoint(layer, x_BSD, token_positions, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BSD = layer(x_BSD, token_positions, caches[i] if caches else None)
        if self.ln_final is not None:
            x_BSD = self.ln_final(x_BSD)
        if targets is not None:
            return linear_cross_entropy(x_BSD, self.lm_head.weight, targets, compile=torch.compiler.is_compiling())
        return self.lm_head(x_BSD)

    def new_caches(self, batch_size: int) -> list[KVCache]:
        """Empty key/value caches, one a layer, with room for context_length tokens."""
        weight = self.token_embeddings.weight
        shape = (batch_size, self.num_kv_heads, self.context_length, self.head_dim)
        dtype = self.compute_dtype or weight.dtype
        return [KVCache(shape, weight.device, dtype) for _ in self.layers]


def _choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ConfigError(f"{name} = {value!r}; expected one of {', '.join(map(repr, choices))}")
    return value
