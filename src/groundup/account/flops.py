"""Floating-point operations of a model's matrix products, at 2mnp for (m, n) times (n, p).

Elementwise work, norms and softmax are left out, as is usual; attention is counted in full, not halved for the
causal mask.
"""

from groundup.config import ModelConfig


def forward_flops(model: ModelConfig, tokens: int | None = None) -> int:
    """One sequence through the model: L(8SD² + 4S²D + 4 or 6 SDF) + 2SDV.

    Args:
        tokens: S; the context length by default.
    """
    s = model.context_length if tokens is None else tokens
    d, f = model.d_model, model.ffn_dim
    layer = 8 * s * d * d + 4 * s * s * d + (6 if model.ffn == "swiglu" else 4) * s * d * f
    return model.num_layers * layer + 2 * s * d * model.vocab_size


def training_flops_per_token(model: ModelConfig) -> float:
    """Forward and backward for one token at full context; backward counts twice the forward."""
    return 3 * forward_flops(model) / model.context_length
