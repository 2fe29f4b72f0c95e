"""The written exercise's own formulas (course requirements R36 and R37), and where the original report's differ.

They count every activation in float32, as if each step's result were kept once: a way to think about memory, not what
a program holds. For that see :mod:`groundup.account.memory`.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from groundup.account.activations import count
from groundup.account.flops import forward_flops
from groundup.account.params import parameter_count
from groundup.config import ModelConfig, RunConfig
from groundup.errors import ConfigError

ActivationList = Literal["report", "handout", "swiglu"]

_BLOCK: dict[str, str] = {
    # norms 2D, QKV 3D, scores and softmax HS each, weighted values D, output product D, W1 F, SiLU F, W2 D
    "handout": "8 D + 2 F + 2 H S",
    # the same with the gate's other half and the product of both
    "swiglu": "8 D + 4 F + 2 H S",
    # the original report: the output product's input beside the weighted values, which are the same tensor; W2's input
    # instead of its output; W3's output left out
    "report": "7 D + 3 F + 2 H S",
}

ADAMW_FLOPS_PER_PARAMETER = {"handout": 14, "report": 15, "bias-corrected": 16}
"""Additions, multiplications, divisions and roots of one update. handout: m 3, v 4, step 5, decay 2. bias-corrected:
m / (1 - β1^t) and v / (1 - β2^t) for every element, 2 more. report: the decay's subtraction counted twice."""


BATCH, STEPS = 1024, 400_000
A100_FLOPS = {"float32": 19.5e12, "TF32": 156e12, "bfloat16": 312e12}
"""Of an A100 at each precision. The exercise takes the first, which no tensor core has a part in."""


def exercise(config: RunConfig, mfu: float = 0.5) -> dict[str, Any]:
    """The figures of the exercise for any model.

    Memory with AdamW, the largest batch in 80 GB, a step's operations, and 400,000 steps of 1,024 sequences on an A100.
    """
    model = config.model
    weights = parameter_count(model)
    fixed = 16 * weights
    lists = {}
    for name in get_args(ActivationList):
        per_sample = activation_bytes(model, name)
        lists[name] = {
            "formula": f"4 S (L ({_BLOCK[name]}) + D + 2 V)",
            "activation_bytes_per_sample": per_sample,
            "max_batch_80e9": max(0, (80 * 10**9 - fixed) // per_sample),
            "max_batch_80GiB": max(0, (80 * 2**30 - fixed) // per_sample),
        }
    forward = BATCH * forward_flops(model)
    days = {name: STEPS * 3 * forward / (peak * mfu) / 86_400 for name, peak in A100_FLOPS.items()}
    return {
        "parameters_bytes": 4 * weights,
        "gradients_bytes": 4 * weights,
        "optimizer_state_bytes": 8 * weights,
        "fixed_bytes": fixed,
        "activations": lists,
        "adamw_flops": {name: each * weights for name, each in ADAMW_FLOPS_PER_PARAMETER.items()},
        "forward_flops_per_step": forward,
        "backward_flops_per_step": 2 * forward,
        "flops_per_step": 3 * forward,
        "mfu": mfu,
        "seconds_per_step_a100_float32": 3 * forward / (A100_FLOPS["float32"] * mfu),
        "days_a100": days,
        "days_by_6_parameters_tokens": 6
        * weights
        * BATCH
        * STEPS
        * model.context_length
        / (A100_FLOPS["float32"] * mfu)
        / 86_400,
    }


def activation_bytes(model: ModelConfig, tensors: ActivationList) -> int:
    """Float32 bytes of one sequence's activations: 4S [L · (block) + D + 2V].

    Args:
        tensors: which are counted in a block: "handout" 16D + 2HS, "swiglu" 24D + 2HS, "report" 19D + 2HS, where
            F = 4D. After the blocks: the final norm, the logits and the loss.

    Raises:
        ConfigError: another name.
    """
    if tensors not in get_args(ActivationList):
        raise ConfigError(f"tensors = {tensors!r}; expected one of {', '.join(get_args(ActivationList))}")
    sizes = {"D": model.d_model, "F": model.ffn_dim, "H": model.num_heads, "S": model.context_length}
    block = count(_BLOCK[tensors], sizes)
    return 4 * model.context_length * (model.num_layers * block + model.d_model + 2 * model.vocab_size)
