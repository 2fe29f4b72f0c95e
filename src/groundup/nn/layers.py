"""Layers with weights: Linear, Embedding, RMSNorm and the feed-forward networks.

Weights stay in the dtype they were created with (float32 by default) and are cast to the input's dtype where they
are used. Mixed precision is therefore visible: feed bfloat16, and the matmuls run in bfloat16.
"""

import math

import torch
from torch import Tensor, nn

from groundup.config import ModelConfig
from groundup.nn.functional import silu


class Linear(nn.Module):
    """``y = W x``, or ``y = W x + b``.

    Initialized from N(0, 2 / (in + out)) truncated at three standard deviations (Glorot & Bengio 2010), the bias to
    zeros.

    Args:
        zero: initialize the weight to zeros, which draws no random numbers.

    Shapes: x ``(..., in_features)`` -> ``(..., out_features)``; state: ``weight (out_features, in_features)``, and
    ``bias (out_features,)`` where there is one.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = False,
        zero: bool = False,
    ):
        super().__init__()
        new = torch.zeros if zero else torch.empty
        self.weight = nn.Parameter(new(out_features, in_features, device=device, dtype=dtype))
        if not zero:
            init_truncated_normal(self.weight, std=math.sqrt(2 / (in_features + out_features)))
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.to(x.dtype).T
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]} -> {self.weight.shape[0]}"


class Embedding(nn.Module):
    """A table of vectors looked up by id, initialized from N(0, std²) truncated at three standard deviations.

    Shapes: token_ids ``(...)`` integer -> ``(..., embedding_dim)``; state: ``weight (num_embeddings, embedding_dim)``.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        std: float = 1.0,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_embeddings, embedding_dim, device=device, dtype=dtype))
        init_truncated_normal(self.weight, std=std)

    def forward(self, token_ids: Tensor) -> Tensor:
        # Not weight[token_ids]: on the CPU several threads accumulate its gradient in an order that changes, so that
        # two runs differ in the last bits, and it is seven times slower.
        rows = self.weight.index_select(0, token_ids.flatten())
        return rows.view(*token_ids.shape, rows.shape[-1])

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]} ids -> {self.weight.shape[1]}"


class RMSNorm(nn.Module):
    """Root-mean-square layer normalization (Zhang & Sennrich 2019, eq. 4).

        y = x / sqrt(mean(x², last axis) + eps) · g

    The statistics are computed in float32 whatever the input's dtype: squares of bfloat16 activations lose the
    small ones. Output has the input's dtype.

    Args:
        d_model: size D of the normalized (last) axis.
        eps: added to the mean square, not to its root.
        gains: have the gains g; without them g = 1.

    Shapes: x ``(..., D)`` -> ``(..., D)``; state: ``weight (D,)``, initialized to ones, if there are gains.
    """

    def __init__(
        self,
        d_model: int,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        gains: bool = True,
    ):
        super().__init__()
        self.eps, self.d_model = eps, d_model
        self.weight = nn.Parameter(torch.ones(d_model, device=device, dtype=dtype)) if gains else None

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        inverse_rms = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        normed = wide * inverse_rms
        return (normed if self.weight is None else normed * self.weight).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.d_model}, eps={self.eps:g}{'' if self.weight is not None else ', no gains'}"


def new_norm(config: ModelConfig, size: int, device: torch.device | str | None, dtype: torch.dtype | None) -> RMSNorm:
    """A norm of ``size`` features, with the config's eps and gains."""
    return RMSNorm(size, config.norm_eps, device, dtype, gains=config.norm_gains)


class SwiGLU(nn.Module):
    """Gated feed-forward network ``W2(SiLU(W1 x) ⊙ W3 x)`` (Shazeer 2020, sec. 2).

    Shapes: x ``(..., d_model)`` -> the same; state: ``w1, w3 (d_ff, d_model)``, ``w2 (d_model, d_ff)``.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.w1 = Linear(d_model, d_ff, device, dtype)
        self.w2 = Linear(d_ff, d_model, device, dtype)
        self.w3 = Linear(d_model, d_ff, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(silu(self.w1(x)) * self.w3(x))


class SiLUFeedForward(nn.Module):
    """Ungated feed-forward network ``W2 SiLU(W1 x)``, the ablation of :class:`SwiGLU`.

    It has two matrices where SwiGLU has three: d_ff = 4 d_model matches SwiGLU's parameters at 8/3 d_model.

    Shapes: x ``(..., d_model)`` -> the same; state: ``w1 (d_ff, d_model)``, ``w2 (d_model, d_ff)``.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.w1 = Linear(d_model, d_ff, device, dtype)
        self.w2 = Linear(d_ff, d_model, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(silu(self.w1(x)))


class SquaredReLUFeedForward(SiLUFeedForward):
    """Ungated feed-forward network ``W2 ReLU(W1 x)²`` (So et al. 2021, Primer), with the shapes of its base class."""

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(torch.relu(self.w1(x)).square())


class ValueEmbedding(Embedding):
    """A table of vectors that are added to the values of one attention layer, initialized from U(-bound, bound).

    Shapes: token_ids ``(...)`` integer -> ``(..., embedding_dim)``; state: ``weight (num_embeddings, embedding_dim)``.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bound: float,
    ):
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.empty(num_embeddings, embedding_dim, device=device, dtype=dtype))
        if not self.weight.is_meta:
            nn.init.uniform_(self.weight, -bound, bound)


def init_truncated_normal(weight: Tensor, std: float) -> None:
    """Fill in place from N(0, std²) truncated at three standard deviations."""
    if not weight.is_meta:  # there is nothing to fill, and torch would load its symbolic shapes for it
        nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)
