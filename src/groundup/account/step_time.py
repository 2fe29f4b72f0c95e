"""How long a training step takes on a CPU, from the one figure that is quickly measured: its fastest matrix product."""

from __future__ import annotations

from groundup.account.flops import forward_products, repeated_flops
from groundup.config import ModelConfig, TrainConfig

# Shapes: B batch, S sequence, D d_model, F d_ff, H heads, V vocabulary, L layers.

COSTS = {"weights": 1.02, "attention": 1.42, "gate": 1690.0, "scores": 405.0, "logits": 445.0}
"""FLOPs of the fastest product in whose time an element, or an operation of a slower product, is gone through, forward
and backward. Fitted to 17 shapes on one thread of an AMD Zen 5 (docs/accounting.md)."""
SECONDS_PER_BLOCK = 5e-3
"""Of calls into the library, whatever their size."""


def cpu_step_seconds(model: ModelConfig, train: TrainConfig, *, batch_size: int, flops_per_second: float) -> float:
    """Seconds of a step with the fast kernels, AdamW and float32.

    Products with weights run near the speed of the fastest. The rest of a step is not counted in FLOPs but takes time
    all the same: attention's products are small, and norms, rotations, the gate, the softmax and the loss go through
    memory.

    Args:
        batch_size: sequences of a step.
        flops_per_second: of a product of two large square matrices, on the threads of the run.
    """
    work = step_work(model, train, batch_size)
    flops = sum(COSTS[kind] * amount for kind, amount in work.items())
    return flops / flops_per_second + SECONDS_PER_BLOCK * model.num_layers


def step_work(model: ModelConfig, train: TrainConfig, batch_size: int) -> dict[str, int]:
    """What a step does, by kinds whose cost differs.

    Operations of products with weights and of attention's; elements of the gate (to which norms and residual sums are
    in proportion), of the scores, and of the logits.
    """
    tokens, layers = batch_size * model.context_length, model.num_layers
    products = forward_products(model, batch_size=batch_size)
    attention = 3 * sum(product.flops for product in products if product.component in ("scores", "values"))
    everything = 3 * sum(product.flops for product in products)
    return {
        "weights": everything - attention,
        "attention": attention + batch_size * repeated_flops(model, train),
        "gate": layers * tokens * model.ffn_dim,
        "scores": layers * batch_size * model.num_heads * model.context_length**2,
        "logits": tokens * model.vocab_size,
    }
