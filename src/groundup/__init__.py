"""groundup: raw text to a trained, measured language model, every part from first principles.

The names below are loaded when first used, so that ``import groundup`` costs nothing.
"""

from __future__ import annotations

from groundup.version import VERSION

__version__ = VERSION

TYPE_CHECKING = False  # as in typing, whose import takes longer than all that is here
if TYPE_CHECKING:
    from typing import Any

    from groundup.data.batches import get_batch
    from groundup.generation import generate
    from groundup.language_model import LanguageModel, load
    from groundup.nn import (
        Embedding,
        Linear,
        MultiHeadSelfAttention,
        RMSNorm,
        RotaryPositionalEmbedding,
        SiLUFeedForward,
        SwiGLU,
        TransformerBlock,
        TransformerLM,
        cross_entropy,
        scaled_dot_product_attention,
        silu,
        softmax,
    )
    from groundup.optim import SGD, AdamW, get_lr_cosine_schedule, gradient_clipping
    from groundup.tokenizer import Tokenizer, train_bpe
    from groundup.train import train
    from groundup.train.checkpoint.single_file import load_checkpoint, save_checkpoint

_HOME = {
    "groundup.tokenizer": ["train_bpe", "Tokenizer"],
    "groundup.nn": [
        "Linear", "Embedding", "RMSNorm", "SwiGLU", "SiLUFeedForward", "RotaryPositionalEmbedding", "silu", "softmax",
        "scaled_dot_product_attention", "MultiHeadSelfAttention", "TransformerBlock", "TransformerLM", "cross_entropy",
    ],
    "groundup.optim": ["SGD", "AdamW", "get_lr_cosine_schedule", "gradient_clipping"],
    "groundup.data.batches": ["get_batch"],
    "groundup.train.checkpoint.single_file": ["save_checkpoint", "load_checkpoint"],
    "groundup.generation": ["generate"],
    "groundup.language_model": ["LanguageModel", "load"],
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "SGD",
    "AdamW",
    "Embedding",
    "LanguageModel",
    "Linear",
    "MultiHeadSelfAttention",
    "RMSNorm",
    "RotaryPositionalEmbedding",
    "SiLUFeedForward",
    "SwiGLU",
    "Tokenizer",
    "TransformerBlock",
    "TransformerLM",
    "cross_entropy",
    "generate",
    "get_batch",
    "get_lr_cosine_schedule",
    "gradient_clipping",
    "load",
    "load_checkpoint",
    "save_checkpoint",
    "scaled_dot_product_attention",
    "silu",
    "softmax",
    "train",
    "train_bpe",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "train":
        return importlib.import_module("groundup.train")  # a package that is callable
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'groundup' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
