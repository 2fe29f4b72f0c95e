"""How long a training step takes on a CPU, from the one figure that is quickly measured: its fastest matrix product."""

from __future__ import annotations

from groundup.account.flops import forward_products, repeated_flops
from groundup.account.params import parameter_count
from groundup.config import ModelConfig, OptimConfig, TrainConfig

# Shapes: B batch, S sequence, D d_model, F d_ff, H heads, V vocabulary, L layers, P parameters.


def work(model: ModelConfig, optim: OptimConfig, train: TrainConfig, batch_size: int) -> dict[str, float]:
    """What a step does, by kinds whose cost differs: operations of products, and elements that are gone through.

    products with weights, with the model's largest as fast as the fastest there is; products of attention, which are
    small; elements of the residual stream, of the gate, of the scores, of the logits; parameters; and calls of the
    library, which cost the same whatever their size.
    """
    tokens, layers = batch_size * model.context_length, model.num_layers
    attention = ("scores", "values")
    products = forward_products(model, batch_size=batch_size)
    weights = 3 * sum(product.flops for product in products if product.component not in attention)
    scores = 3 * sum(product.flops for product in products if product.component in attention)
    repeated = batch_size * repeated_flops(model, train)
    return {
        "weights": float(weights),
        "attention": float(scores + repeated),
        "stream": float(layers * tokens * model.d_model),
        "gate": float(layers * tokens * model.ffn_dim),
        "scores": float(layers * batch_size * model.num_heads * model.context_length**2),
        "logits": float(tokens * model.vocab_size),
        "parameters": float(parameter_count(model)),
        "calls": float(layers),
    }


def cpu_step_seconds(
    model: ModelConfig, optim: OptimConfig, train: TrainConfig, *, batch_size: int, flops_per_second: float
) -> float:
    """Seconds of a step on a CPU."""
    found = work(model, optim, train, batch_size)
    return sum(COSTS[kind] * amount for kind, amount in found.items()) / flops_per_second


COSTS = {
    "weights": 1.05,
    "attention": 1.2,
    "stream": 500.0,
    "gate": 500.0,
    "scores": 100.0,
    "logits": 200.0,
    "parameters": 50.0,
    "calls": 1e7,
}
