"""The Transformer block and the language model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from groundup.config import ModelConfig
from groundup.errors import ConfigError
from groundup.nn.attention import KVCache, MultiHeadSelfAttention, RotaryPositionalEmbedding
from groundup.nn.course import block_sizes, model_sizes, or_sizes
from groundup.nn.functional import softcapped
from groundup.nn.layers import (
    Embedding,
    Linear,
    SiLUFeedForward,
    SquaredReLUFeedForward,
    SwiGLU,
    ValueEmbedding,
    new_norm,
)

# Shapes: B batch, S sequence, D d_model, V vocabulary.

_MOST_TIMES_LONGER = 64


class FromTokens(NamedTuple):
    """What a block takes from the token ids beside the residual stream."""

    value_rows: Tensor | None = None
    """``(..., S, G K)``, the value embeddings of its attention."""
    first: tuple[Tensor, Tensor, Tensor] | None = None
    """With ``residual_scalars``: the factors of all layers on the residual stream, those on what entered the first
    block, and this, ``(..., S, D)``."""


_NOTHING = FromTokens()


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward network, each added to the residual stream.

    norm = "pre":   y = x + Attention(RMSNorm(x));  z = y + FFN(RMSNorm(y))   (Xiong et al. 2020)
    norm = "post":  y = RMSNorm(x + Attention(x));  z = RMSNorm(y + FFN(y))   (Vaswani et al. 2017)
    norm = "none":  y = x + Attention(x);           z = y + FFN(y)

    With ``residual_scalars`` x is first replaced by a x + b x0, where x0 is what entered the first block.

    The course's form is ``TransformerBlock(d_model, num_heads, d_ff, rope=None)`` with ``num_kv_heads``, ``norm``,
    ``ffn`` and ``norm_eps`` as keywords.

    Args:
        layer_index: index of the block in the model.
        rope: rotary embedding, shared by all blocks; None = no position information.

    Shapes: x ``(..., S, D)`` -> the same; state: ``attn.*``, ``ffn.*``, and, where there are norms, ``ln1.weight``,
    ``ln2.weight``.
    """

    @or_sizes(block_sizes)
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
        self.norm, self.layer_index = config.norm, layer_index
        self.attn = MultiHeadSelfAttention(config, layer_index, rope, device=device, dtype=dtype)
        kinds: dict[str, type[SwiGLU | SiLUFeedForward]]
        kinds = {"swiglu": SwiGLU, "silu": SiLUFeedForward, "relu2": SquaredReLUFeedForward}
        self.ffn = kinds[config.ffn](config.d_model, config.ffn_dim, device, dtype)
        if config.norm != "none":
            self.ln1 = new_norm(config, config.d_model, device, dtype)
            self.ln2 = new_norm(config, config.d_model, device, dtype)
        # After all weights were drawn, so that an option changes no other weight.
        factor = {"glorot": 1.0, "depth": (2 * config.num_layers) ** -0.5, "zero": 0.0}[config.output_init]
        if factor != 1:
            for layer in (self.attn.output_proj, self.ffn.w2):
                layer.weight.data.mul_(factor)

    def forward(
        self,
        x: Tensor,
        token_positions: Tensor | None = None,
        cache: KVCache | None = None,
        tokens: FromTokens = _NOTHING,
    ) -> Tensor:
        if tokens.first is not None:
            a, b, x0 = tokens.first
            x = a[self.layer_index] * x + b[self.layer_index] * x0
        match self.norm:
            case "pre":
                x = x + self.attn(self.ln1(x), token_positions, cache, tokens.value_rows)
                return x + self.ffn(self.ln2(x))
            case "post":
                x = self.ln1(x + self.attn(x, token_positions, cache, tokens.value_rows))
                return self.ln2(x + self.ffn(x))
            case _:
                x = x + self.attn(x, token_positions, cache, tokens.value_rows)
                return x + self.ffn(x)


class TransformerLM(nn.Module):
    """Decoder-only language model: embedding, blocks, final RMSNorm (pre-norm only), output matrix.

    A post-norm block already ends in a norm, and norm = "none" means no norm at all, so both omit the final one.
    With ``tie_embeddings`` the output matrix is the embedding table, initialized with the output matrix's standard
    deviation so that the first loss is ln V either way, and its vectors are scaled back to unit variance where they
    enter the residual stream (as in Vaswani et al. 2017, sec. 3.4, whose factor is sqrt(D)). ``embedding_scale`` sets
    that factor.

    :func:`groundup.nn.fast.accelerate.accelerate` replaces the layers by faster ones with the same parameters.

    The course's form is ``TransformerLM(vocab_size, context_length, d_model, num_layers, num_heads, d_ff, rope_theta)``
    with the other fields of :class:`groundup.config.ModelConfig` as keywords.

    Attributes:
        compute_dtype: dtype of the activations and matmuls (mixed precision); None takes the weights' dtype.
        checkpoint_activations: save only the input of each block for the backward pass, which recomputes the rest
            (Chen et al. 2016).

    Shapes: token ids ``(B, S)`` -> logits ``(B, S, V)``; state: ``token_embeddings.weight``,
    ``layers.{i}.*``, ``ln_final.weight``, ``lm_head.weight``, ``embedding_norm.weight`` with that option,
    ``value_embeddings.{i}.weight (V, G K)`` of each layer i that has them, and ``residual_scalars (L,)`` and
    ``first_scalars (L,)``.

    Raises:
        ConfigError: config.vocab_size is 0, which takes the size from the data.
    """

    @or_sizes(model_sizes)
    def __init__(
        self,
        config: ModelConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if config.vocab_size == 0:
            raise ConfigError("model.vocab_size = 0; a model needs the tokenizer's size, e.g. 10000")
        self.config = config
        self.vocab_size, self.context_length = config.vocab_size, config.context_length
        self.compute_dtype: torch.dtype | None = None
        self.checkpoint_activations = False
        rope = None
        if config.position == "rope":
            rope = RotaryPositionalEmbedding(
                config.rope_theta, config.head_dim, config.context_length, device, config=config
            ).to(dtype=dtype)
        # Without norms nothing rescales the residual stream, and SwiGLU is quadratic in it: unit embeddings would
        # start eight layers at a loss of 1e29.
        embedding_std = config.initial_head_std if config.tie_embeddings or config.norm == "none" else 1.0
        # A tied table is small because of the head. The residual stream needs unit vectors all the same: beside what
        # the layers add to it, a token of size 0.01 would be lost (docs/LAB.md has the loss curves).
        self.embedding_scale = config.input_scale
        self.token_embeddings = Embedding(config.vocab_size, config.d_model, device, dtype, std=embedding_std)
        self.layers = nn.ModuleList(
            TransformerBlock(config, i, rope, device=device, dtype=dtype) for i in range(config.num_layers)
        )
        self.embedding_norm = new_norm(config, config.d_model, device, dtype) if config.embedding_norm else None
        self.ln_final = new_norm(config, config.d_model, device, dtype) if config.norm == "pre" else None
        self.lm_head = Linear(config.d_model, config.vocab_size, device, dtype)
        if config.tie_embeddings:
            self.lm_head.weight = self.token_embeddings.weight
        # After all other weights were drawn, so that these options change none of them.
        width, bound = config.kv_heads * config.head_dim, (3 / config.d_model) ** 0.5
        self.value_embeddings = nn.ModuleDict(
            {str(i): ValueEmbedding(config.vocab_size, width, device, dtype, bound=bound) for i in config.value_layers}
        )
        self.residual_scalars = self.first_scalars = None
        if config.residual_scalars:
            ones = torch.ones(config.num_layers, device=device, dtype=dtype)
            self.residual_scalars, self.first_scalars = nn.Parameter(ones), nn.Parameter(0.1 * ones)

    @classmethod
    def from_config(
        cls,
        config: ModelConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> TransformerLM:
        """``TransformerLM(config)``."""
        return cls(config, device=device, dtype=dtype)

    @classmethod
    def uninitialized(cls, config: ModelConfig, device: torch.device | str | None = None) -> TransformerLM:
        """A model whose weights are memory without content, to be filled by a checkpoint."""
        # Not by to_empty(), which loads torch's symbolic shapes (a second of imports).
        return cls(config, device="meta")._apply(lambda t: torch.empty(t.shape, dtype=t.dtype, device=device or "cpu"))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if self.config.tie_embeddings and isinstance(self.lm_head, Linear):  # fn was called for each
            self.lm_head.weight = self.token_embeddings.weight
        return self

    def forward(
        self,
        token_ids: Tensor,
        token_positions: Tensor | None = None,
        caches: Sequence[KVCache] | None = None,
        *,
        targets: Tensor | None = None,
        ignore_index: int | None = None,
        logits_to_keep: int = 0,
    ) -> Tensor:
        """Return the logits of the next token at every position, or with ``targets (B, S)`` the mean loss.

        The loss never holds all logits at once (:func:`groundup.nn.linear_cross_entropy`).

        Args:
            token_positions: ``(..., S)``, broadcast over the batch; by default they continue those of the caches.
            caches: keys and values of the tokens before these, one cache per layer.
            ignore_index: target of positions that do not count for the loss; None: all count.
            logits_to_keep: compute the logits of this many last positions only; 0 computes all.

        Raises:
            ConfigError: more tokens than context_length.
        """
        x_BSD = self.hidden(token_ids, token_positions, caches)
        if targets is not None:
            from groundup.nn.fast.linear_loss import linear_cross_entropy  # not above: it loads torch's compiler

            head = self.lm_head  # of rounded weights, the matrix that they stand for
            weight = head.weight if isinstance(head, Linear) else head.dequantized()
            return linear_cross_entropy(
                x_BSD, weight, targets, ignore_index=ignore_index, softcap=self.config.logit_softcap,
                compile=torch.compiler.is_compiling(),
            )  # fmt: skip
        return self.logits(x_BSD[:, -logits_to_keep:])  # -0: all of them

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits ``(..., V)`` of what :meth:`hidden` returns."""
        logits: Tensor = self.lm_head(hidden)
        return softcapped(logits, self.config.logit_softcap) if self.config.logit_softcap else logits

    def hidden(
        self, token_ids: Tensor, token_positions: Tensor | None = None, caches: Sequence[KVCache] | None = None
    ) -> Tensor:
        """Return what the output matrix is applied to, ``(B, S, D)``; arguments and errors as for :meth:`forward`."""
        past = caches[0].length if caches else 0
        if past + token_ids.shape[-1] > self.context_length:
            raise ConfigError(
                f"sequence of {past + token_ids.shape[-1]} tokens is longer than context_length = "
                f"{self.context_length}; keep the last {self.context_length} tokens"
            )
        x_BSD = self.token_embeddings(token_ids)
        if self.embedding_scale != 1:
            x_BSD = x_BSD * self.embedding_scale
        if self.embedding_norm is not None:
            x_BSD = self.embedding_norm(x_BSD)
        if self.compute_dtype is not None:
            x_BSD = x_BSD.to(self.compute_dtype)
        for i, (layer, tokens) in enumerate(zip(self.layers, self._from_tokens(token_ids, x_BSD), strict=True)):
            if self.checkpoint_activations and torch.is_grad_enabled() and caches is None:
                x_BSD = checkpoint(
                    layer, x_BSD, token_positions, None, tokens, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x_BSD = layer(x_BSD, token_positions, caches[i] if caches else None, tokens)
        if self.ln_final is not None:
            x_BSD = self.ln_final(x_BSD)
        return x_BSD

    def _from_tokens(self, token_ids: Tensor, first_BSD: Tensor) -> Iterator[FromTokens]:
        """What each layer takes from the token ids, looked up when the layer is about to run."""
        tables = dict(self.value_embeddings.items())
        for i in range(len(self.layers)):
            rows = tables[str(i)](token_ids).to(first_BSD.dtype) if str(i) in tables else None
            if self.residual_scalars is None or self.first_scalars is None:
                yield FromTokens(rows)
            else:
                yield FromTokens(rows, (self.residual_scalars, self.first_scalars, first_BSD))

    def lengthen(self, context_length: int) -> None:
        """Take longer sequences than the model was trained for, by a larger base of the rotary angles.

        With theta · f^(K / (K - 2)) for an f times longer context the slowest pair of features turns as far over the
        longer context as it did over the old one, and the fastest, which tell neighbours apart, hardly change
        (NTK-aware scaling; Peng et al. 2023, YaRN, sec. 3.1). No weight changes.

        Raises:
            ConfigError: it is not longer, or more than 64 times as long, for which the angles hold no information.
        """
        config, most = self.config, _MOST_TIMES_LONGER * self.context_length
        if not self.context_length < context_length <= most:
            raise ConfigError(
                f"longer context = {str(context_length)[:20]}; expected more than the model's own "
                f"{self.context_length} tokens, and at most {most}"
            )
        factor = context_length / self.context_length
        exponent = config.head_dim / max(1, config.head_dim - 2)
        theta = config.rope_theta * factor**exponent
        self.config = dataclasses.replace(config, context_length=context_length, rope_theta=theta)
        self.context_length = context_length
        for rope in [part for part in self.modules() if isinstance(part, RotaryPositionalEmbedding)]:
            rope.rescale(theta, context_length)

    def new_caches(self, batch_size: int) -> list[KVCache]:
        """Empty key/value caches, one per layer, with room for context_length tokens."""
        weight = self.token_embeddings.weight
        shape = (batch_size, self.config.kv_heads, self.context_length, self.config.head_dim)
        dtype = self.compute_dtype or weight.dtype
        return [KVCache(shape, weight.device, dtype) for _ in self.layers]
