"""Parameters of a model by component, counted from its modules."""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass

from groundup.account.modules import Weight, weight_shapes
from groundup.config import ModelConfig


@dataclass(frozen=True)
class Parameters:
    """Trainable parameters by component. Those of a block are counted for one block.

    In the formulas V is the vocabulary, D d_model, F d_ff, and J the width of all keys (kv_heads x head_dim).
    """

    embedding: int
    """VD."""
    qkv: int
    """D² + 2DJ; 3D² without grouped-query attention; and the biases, D + 2J."""
    output_proj: int
    """D²."""
    ffn: int
    """3DF for swiglu, 2DF for silu."""
    block_norms: int
    """2D, or 0 without norms."""
    num_layers: int
    final_norm: int
    """D; 0 for post-norm, whose last block ends in a norm, and without norms."""
    head: int
    """VD; 0 where the embedding table is the output matrix too."""

    @property
    def block(self) -> int:
        """One block."""
        return self.qkv + self.output_proj + self.ffn + self.block_norms

    @property
    def blocks(self) -> int:
        """All blocks."""
        return self.num_layers * self.block

    @property
    def non_embedding(self) -> int:
        """All but embedding and output matrix."""
        return self.blocks + self.final_norm

    @property
    def total(self) -> int:
        """All, each counted once."""
        return self.embedding + self.blocks + self.final_norm + self.head


@functools.lru_cache(maxsize=1024)
def parameters(model: ModelConfig) -> Parameters:
    """Parameters of a model with this config."""
    counts = Counter[str]()
    for weight, shape in weight_shapes(model):
        counts[_component(weight)] += math.prod(shape)
    names = ("embedding", "qkv", "output_proj", "ffn", "block_norms", "final_norm", "head")
    return Parameters(num_layers=model.num_layers, **{name: counts[name] for name in names})


def parameter_count(model: ModelConfig) -> int:
    """Number of trainable parameters of a model with this config."""
    return parameters(model).total


def hidden_matrices(model: ModelConfig) -> Counter[tuple[int, int]]:
    """Shapes of the matrices between embedding and head, and how many of the model's weights have each."""
    counts = Counter[tuple[int, int]]()
    for weight, shape in weight_shapes(model):
        if weight.in_block and len(shape) == 2:
            counts[shape[0], shape[1]] += model.num_layers
    return counts


def _component(weight: Weight) -> str:
    if not weight.in_block:
        return {"token_embeddings.weight": "embedding", "lm_head.weight": "head"}.get(weight.name, "final_norm")
    is_bias = weight.name.startswith("attn.") and weight.name.endswith(".bias")
    if len(weight.shape) == 1 and not is_bias:
        return "block_norms"
    if weight.name.startswith("attn."):
        return "output_proj" if weight.name == "attn.output_proj.weight" else "qkv"
    return "ffn"
