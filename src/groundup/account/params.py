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
    value_embeddings: int = 0
    """VJ for each layer with value embeddings: looked up by token id, as embedding is."""
    value_gates: int = 0
    """12 for each head of keys in a layer with value embeddings."""
    scalars: int = 0
    """2 for each layer with residual_scalars."""

    @property
    def block(self) -> int:
        """One block, without the gate that some blocks have."""
        return self.qkv + self.output_proj + self.ffn + self.block_norms

    @property
    def blocks(self) -> int:
        """All blocks."""
        return self.num_layers * self.block + self.value_gates

    @property
    def non_embedding(self) -> int:
        """All but embedding, value embeddings and output matrix."""
        return self.blocks + self.final_norm + self.scalars

    @property
    def total(self) -> int:
        """All, each counted once."""
        return self.embedding + self.value_embeddings + self.non_embedding + self.head


@functools.lru_cache(maxsize=1024)
def parameters(model: ModelConfig) -> Parameters:
    """Parameters of a model with this config."""
    counts = Counter[str]()
    for weight, shape, times in weight_shapes(model):
        component = _component(weight)
        counts[component] += math.prod(shape) * (times if component in _OF_SOME_LAYERS else 1)
    names = ("embedding", "qkv", "output_proj", "ffn", "block_norms", "final_norm", "head", *_OF_SOME_LAYERS, "scalars")
    return Parameters(num_layers=model.num_layers, **{name: counts[name] for name in names})


_OF_SOME_LAYERS = ("value_embeddings", "value_gates")


def parameter_count(model: ModelConfig) -> int:
    """Number of trainable parameters of a model with this config."""
    return parameters(model).total


def hidden_matrices(model: ModelConfig) -> Counter[tuple[int, int]]:
    """Shapes of the matrices between embedding and head, and how many of the model's weights have each."""
    counts = Counter[tuple[int, int]]()
    for weight, shape, times in weight_shapes(model):
        if weight.in_block and len(shape) == 2 and weight.name != _GATE:
            counts[shape[0], shape[1]] += times
    return counts


_GATE = "attn.value_gate.weight"
_OUTSIDE = {
    "token_embeddings.weight": "embedding", "lm_head.weight": "head", "value_embeddings.weight": "value_embeddings",
    "residual_scalars": "scalars", "first_scalars": "scalars",
}  # fmt: skip


def _component(weight: Weight) -> str:
    if not weight.in_block:
        return _OUTSIDE.get(weight.name, "final_norm")
    is_bias = weight.name.startswith("attn.") and weight.name.endswith(".bias")
    if len(weight.shape) == 1 and not is_bias:
        return "block_norms"
    if weight.name.startswith("attn."):
        return {"attn.output_proj.weight": "output_proj", _GATE: "value_gates"}.get(weight.name, "qkv")
    return "ffn"
