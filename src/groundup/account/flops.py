"""Floating-point operations of a model's matrix products, at 2mnp for (m, n) times (n, p).

Elementwise work, norms and softmax are left out, as is usual; attention is counted in full, not halved for the
causal mask. So are the products that a step makes a second time (:func:`repeated_flops`): they are work of one way to
compute the model, not of the model, and MFU does not count them.
"""

from dataclasses import dataclass

from groundup.config import ModelConfig, TrainConfig

# Shapes: B batch, S sequence, D d_model, F d_ff, H heads, K head size, J width of all keys, V vocabulary, L layers.

BLOCKED_ROWS = 128
"""Rows of queries that our own attention on a CPU takes at a time: it computes the scores of whole blocks up to the
diagonal (:mod:`groundup.nn.fast.blocked_attention`)."""


@dataclass(frozen=True)
class MatrixProduct:
    """A kind of matrix product of the forward pass, and how often it is made."""

    name: str
    component: str
    """"projections", "scores", "values", "ffn" or "head"."""
    m: int
    n: int
    p: int
    count: int

    @property
    def flops(self) -> int:
        """Of all of them together: 2mnp each."""
        return 2 * self.m * self.n * self.p * self.count


def forward_products(model: ModelConfig, *, batch_size: int = 1, tokens: int | None = None) -> list[MatrixProduct]:
    """Every matrix product of a forward pass, in its order.

    The tokens of all sequences are the rows of a product with a weight; attention makes one product for each sequence
    and head.

    Args:
        tokens: S, of one sequence; the context length by default.
    """
    s = model.context_length if tokens is None else tokens
    rows, d, f, layers = batch_size * s, model.d_model, model.ffn_dim, model.num_layers
    kv_width, heads = model.kv_heads * model.head_dim, layers * batch_size * model.num_heads
    gate = [MatrixProduct("w3", "ffn", rows, d, f, layers)] if model.ffn == "swiglu" else []
    return [
        MatrixProduct("q_proj", "projections", rows, d, d, layers),
        MatrixProduct("k_proj", "projections", rows, d, kv_width, layers),
        MatrixProduct("v_proj", "projections", rows, d, kv_width, layers),
        MatrixProduct("queries x keys", "scores", s, model.head_dim, s, heads),
        MatrixProduct("weights x values", "values", s, s, model.head_dim, heads),
        MatrixProduct("output_proj", "projections", rows, d, d, layers),
        MatrixProduct("w1", "ffn", rows, d, f, layers),
        *gate,
        MatrixProduct("w2", "ffn", rows, f, d, layers),
        MatrixProduct("lm_head", "head", rows, d, model.vocab_size, 1),
    ]


def forward_flops(model: ModelConfig, tokens: int | None = None) -> int:
    """One sequence through the model: L(8SD² + 4S²D + 4 or 6 SDF) + 2SDV where no heads are shared.

    Args:
        tokens: S; the context length by default.
    """
    return sum(product.flops for product in forward_products(model, tokens=tokens))


def backward_flops(model: ModelConfig, tokens: int | None = None) -> int:
    """The gradients of one sequence: two products, one by each factor, for every product of the forward pass."""
    return 2 * forward_flops(model, tokens)


def training_flops_per_token(model: ModelConfig) -> float:
    """Forward and backward for one token at full context; backward counts twice the forward."""
    return 3 * forward_flops(model) / model.context_length


def repeated_flops(model: ModelConfig, train: TrainConfig, *, device: str = "cpu") -> int:
    """What one sequence costs beyond forward and backward, in products made again to save memory; negative where the
    causal mask saves more than that.

    Fused attention makes the scores again in the backward pass. Activation checkpointing makes each block again. Our
    own attention on a CPU leaves out most of the scores that the mask would hide.
    """
    products = forward_products(model)
    scores = sum(product.flops for product in products if product.component == "scores")
    attention, repeated = 2 * scores, 0
    computed = attention
    if train.attention == "flash":
        share = _share_of_scores(model.context_length) if uses_blocked_attention(train, device) else 1.0
        computed = round(attention * share)
        # Forward two products, backward five instead of four.
        repeated += 3 * (computed - attention) + round(scores * share)
    if train.activation_checkpointing:
        once = {product.name: product.flops for product in products}
        # Nothing needs the last product of a block again, unless a norm follows it.
        left_out = once["lm_head"] + (0 if model.norm == "post" else once["w2"])
        repeated += forward_flops(model) - left_out - attention + computed
    return repeated


def uses_blocked_attention(train: TrainConfig, device: str) -> bool:
    """Whether attention is our own for CPUs: in float32, unless asked for the plain formula."""
    fused = train.attention == "flash" and train.kernels == "fast"
    return fused and device == "cpu" and train.precision == "fp32"


def _share_of_scores(length: int) -> float:
    blocks, rest = divmod(length, BLOCKED_ROWS)
    computed = BLOCKED_ROWS**2 * blocks * (blocks + 1) // 2 + rest * length
    return computed / length**2
