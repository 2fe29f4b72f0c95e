"""The Transformer and its parts, from first principles on ``torch.Tensor`` and ``nn.Parameter``."""

from groundup.nn.attention import KVCache, MultiHeadSelfAttention, RotaryPositionalEmbedding
from groundup.nn.fast.loss import cross_entropy, linear_cross_entropy
from groundup.nn.functional import scaled_dot_product_attention, silu, softmax
from groundup.nn.layers import Embedding, Linear, RMSNorm, SiLUFeedForward, SwiGLU
from groundup.nn.transformer import TransformerBlock, TransformerLM

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
