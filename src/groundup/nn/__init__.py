"""The Transformer and its parts, from first principles on ``torch.Tensor`` and ``nn.Parameter``."""

from typing import TYPE_CHECKING, Any

from groundup.nn.attention import KVCache, MultiHeadSelfAttention, RotaryPositionalEmbedding
from groundup.nn.fast.loss import cross_entropy
from groundup.nn.functional import scaled_dot_product_attention, silu, softmax
from groundup.nn.layers import Embedding, Linear, RMSNorm, SiLUFeedForward, SwiGLU
from groundup.nn.transformer import TransformerBlock, TransformerLM

if TYPE_CHECKING:
    from groundup.nn.fast.linear_loss import linear_cross_entropy

__all__ = [
    "Embedding",
    "KVCache",
    "Linear",
    "MultiHeadSelfAttention",
    "RMSNorm",
    "RotaryPositionalEmbedding",
    "SiLUFeedForward",
    "SwiGLU",
    "TransformerBlock",
    "TransformerLM",
    "cross_entropy",
    "linear_cross_entropy",
    "scaled_dot_product_attention",
    "silu",
    "softmax",
]


def __getattr__(name: str) -> Any:
    if name != "linear_cross_entropy":
        raise AttributeError(f"module 'groundup.nn' has no attribute {name!r}")
    from groundup.nn.fast.linear_loss import linear_cross_entropy  # loads torch's compiler, so only when it is used

    return linear_cross_entropy
