"""Parameters of a model."""

from groundup.config import ModelConfig

# Shapes: V vocabulary, D d_model, F d_ff, L layers.


def parameter_count(model: ModelConfig) -> int:
    """Trainable numbers: embedding VD, head VD (unless tied), and for each layer 4D² + 2 or 3 DF + the norm gains."""
    d, f = model.d_model, model.ffn_dim
    embeddings = model.vocab_size * d * (1 if model.tie_embeddings else 2)
    layer = 4 * d * d + (3 if model.ffn == "swiglu" else 2) * d * f
    gains = {"pre": model.num_layers * 2 * d + d, "post": model.num_layers * 2 * d, "none": 0}[model.norm]
    return embeddings + model.num_layers * layer + gains
