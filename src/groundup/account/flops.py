"""FLOPs of a model's matmuls, 2mnp for (m, n) x (n, p), counted from its modules.

Elementwise operations, norms and softmax are left out, as is usual; attention is counted in full, not halved for the
causal mask. Matmuls that a training step recomputes (:func:`recomputed_flops`) are left out too: they belong to one way
to compute the model, not to the model, and MFU does not count them.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

from groundup.account.modules import TracedMatmul, matmul_shapes
from groundup.config import ModelConfig, TrainConfig, from_dict
from groundup.errors import ConfigError

BLOCKED_ROWS = 128
"""Query rows per block of our attention on a CPU, which computes the scores of whole blocks up to the diagonal
(:mod:`groundup.nn.fast.attention`)."""


@dataclass(frozen=True)
class Matmul:
    """A matmul of the forward pass, and how often the pass runs it."""

    name: str
    component: str
    """"projections", "scores", "values", "ffn" or "head"."""
    m: int
    n: int
    p: int
    count: int

    @property
    def flops(self) -> int:
        """All of them together, at 2mnp each."""
        return 2 * self.m * self.n * self.p * self.count


@functools.lru_cache(maxsize=1024)
def forward_matmuls(model: ModelConfig, *, batch_size: int = 1, tokens: int | None = None) -> tuple[Matmul, ...]:
    """Every matmul of a forward pass, in order.

    The rows of a matmul with a weight are the tokens of all sequences; attention runs one matmul per sequence and head.

    Args:
        tokens: length of a sequence; the context length by default.
    """
    tokens = model.context_length if tokens is None else tokens
    found = []
    for matmul, (batch, m, n, p) in matmul_shapes(model, batch_size=batch_size, tokens=tokens):
        name, component = _names(matmul)
        found.append(Matmul(name, component, m, n, p, batch))
    return tuple(found)


def _names(matmul: TracedMatmul) -> tuple[str, str]:
    if not matmul.has_weight:
        return ("queries x keys", "scores") if matmul.p == ("tokens",) else ("weights x values", "values")
    component = {"attn": "projections", "ffn": "ffn", "lm_head": "head"}
    return matmul.module.rpartition(".")[2], component[matmul.module.partition(".")[0]]


def forward_flops(model: ModelConfig, tokens: int | None = None) -> int:
    """FLOPs of the forward pass of one sequence: L(8SD² + 4S²D + 4 or 6 SDF) + 2SDV for the usual model.

    Args:
        tokens: length S of the sequence; the context length by default.
    """
    return sum(matmul.flops for matmul in forward_matmuls(model, tokens=tokens))


def backward_flops(model: ModelConfig, tokens: int | None = None) -> int:
    """FLOPs of the backward pass of one sequence: two matmuls for each of the forward pass, one by each factor."""
    return 2 * forward_flops(model, tokens)


def training_flops_per_token(model: ModelConfig) -> float:
    """FLOPs of forward and backward per token at full context length; backward counts twice the forward."""
    return 3 * forward_flops(model) / model.context_length


def count_flops(model: object) -> float | None:
    """Training FLOPs per token from the options of a model as a run's config.toml has them.

    For runs of version 0.1, which did not record them. None where the options are incomplete or unknown.
    """
    if not isinstance(model, dict) or not model.get("vocab_size"):
        return None
    return _count(json.dumps(model, sort_keys=True, default=str))


@functools.lru_cache(maxsize=4096)
def _count(model: str) -> float | None:
    try:
        return training_flops_per_token(from_dict(ModelConfig, json.loads(model), place="model"))
    except ConfigError:  # written by another version, whose options this one does not know
        return None


def recomputed_flops(model: ModelConfig, train: TrainConfig, *, device: str = "cpu") -> int:
    """FLOPs of one sequence beyond forward and backward, in matmuls recomputed to save memory.

    Negative where the causal mask saves more than that.

    Fused attention recomputes the scores in the backward pass. Activation checkpointing recomputes each block. Our
    attention on a CPU skips most of the scores that the mask hides.
    """
    matmuls = forward_matmuls(model)
    scores = sum(matmul.flops for matmul in matmuls if matmul.component == "scores")
    attention, recomputed = 2 * scores, 0
    computed = attention
    if train.attention == "flash":
        share = _share_of_scores(model.context_length) if uses_blocked_attention(train, device) else 1.0
        computed = round(attention * share)
        # Forward two matmuls, backward five instead of four.
        recomputed += 3 * (computed - attention) + round(scores * share)
    if train.activation_checkpointing:
        once = {matmul.name: matmul.flops for matmul in matmuls}
        # The last matmul of a block is recomputed only if a norm follows it.
        left_out = once["lm_head"] + (0 if model.norm == "post" else once["w2"])
        recomputed += forward_flops(model) - left_out - attention + computed
    return recomputed


def uses_blocked_attention(train: TrainConfig, device: str) -> bool:
    """Whether attention runs in our blocked kernel for CPUs: flash attention and fast kernels in float32."""
    fused = train.attention == "flash" and train.kernels == "fast"
    return fused and device == "cpu" and train.precision == "fp32"


def _share_of_scores(length: int) -> float:
    blocks, rest = divmod(length, BLOCKED_ROWS)
    computed = BLOCKED_ROWS**2 * blocks * (blocks + 1) // 2 + rest * length
    return computed / length**2
