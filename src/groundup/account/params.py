"""Parameters of a model, by component."""

from dataclasses import dataclass

from groundup.config import ModelConfig

# Shapes: V vocabulary, D d_model, F d_ff, J width of all keys (heads of keys times head size), L layers.


@dataclass(frozen=True)
class Parameters:
    """Trainable numbers by what they are for. Those of a block are counted for one block."""

    embedding: int
    """VD."""
    qkv: int
    """D² + 2DJ; 3D² where every query head has keys and values of its own."""
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
    """VD; 0 where the embedding table serves as output matrix too."""

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
        """All but embedding and head, as papers on scaling count."""
        return self.blocks + self.final_norm

    @property
    def total(self) -> int:
        """All, each counted once."""
        return self.embedding + self.blocks + self.final_norm + self.head


def parameters(model: ModelConfig) -> Parameters:
    """What a model of this shape holds: 2VD + L(4D² + 3DF + 2D) + D for the usual one."""
    d, f, kv_width = model.d_model, model.ffn_dim, model.kv_heads * model.head_dim
    table = model.vocab_size * d
    return Parameters(
        embedding=table,
        qkv=d * d + 2 * d * kv_width,
        output_proj=d * d,
        ffn=(3 if model.ffn == "swiglu" else 2) * d * f,
        block_norms=0 if model.norm == "none" else 2 * d,
        num_layers=model.num_layers,
        final_norm=d if model.norm == "pre" else 0,
        head=0 if model.tie_embeddings else table,
    )


def parameter_count(model: ModelConfig) -> int:
    """All trainable numbers of a model of this shape."""
    return parameters(model).total
