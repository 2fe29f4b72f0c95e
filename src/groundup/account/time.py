"""FLOPs and time of a training step and of a run; the time of a step on a CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from groundup.account.flops import forward_flops, forward_matmuls, recomputed_flops
from groundup.account.params import hidden_matrices, parameter_count
from groundup.config import ModelConfig, OptimConfig, TrainConfig
from groundup.errors import ConfigError

ADAMW_FLOPS_PER_PARAMETER = 14
"""Operations of an AdamW update per element: first moment 3, second moment 4, step 5, weight decay 2."""
_MUON_ELEMENTWISE = 8
"""Operations of a Muon update per element beside its matmuls: momentum, Nesterov, step and weight decay."""


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of one training step."""

    forward: int
    backward: int
    optimizer: int

    @property
    def model(self) -> int:
        """What MFU counts: forward and backward."""
        return self.forward + self.backward

    @property
    def total(self) -> int:
        """Forward, backward and the optimizer."""
        return self.model + self.optimizer


def step_flops(model: ModelConfig, optim: OptimConfig, batch_size: int) -> StepFlops:
    """FLOPs of one training step over ``batch_size`` sequences."""
    forward = batch_size * forward_flops(model)
    return StepFlops(forward, 2 * forward, optimizer_flops(model, optim))


def optimizer_flops(model: ModelConfig, optim: OptimConfig) -> int:
    """FLOPs of one update; Muon runs its matmuls for the matrices between embedding and head, AdamW for the rest."""
    total = parameter_count(model)
    if optim.optimizer != "muon":
        return ADAMW_FLOPS_PER_PARAMETER * total
    flops, hidden = 0, 0
    for (rows, columns), matrices in hidden_matrices(model).items():
        elements = matrices * rows * columns
        flops += matrices * newton_schulz_flops(rows, columns, optim.muon_iterations) + _MUON_ELEMENTWISE * elements
        hidden += elements
    return flops + ADAMW_FLOPS_PER_PARAMETER * (total - hidden)


def newton_schulz_flops(rows: int, columns: int, iterations: int) -> int:
    """FLOPs of the iterations for a matrix X, smaller side first: X Xᵀ, its square, and a polynomial times X."""
    small, large = sorted((rows, columns))
    return iterations * (2 * small * small * large + 2 * small**3 + 2 * small * small * large)


def seconds(flops: float, flops_per_second: float, mfu: float) -> float:
    """Time of FLOPs at a device's peak times the model FLOPs utilization (MFU).

    Raises:
        ConfigError: an MFU outside (0, 1], or a peak of 0 or less.
        OverflowError: the result is beyond the range of a float.
    """
    check_mfu(mfu)
    if not flops_per_second > 0:
        raise ConfigError(f"peak = {flops_per_second:g} FLOP/s; expected a positive number")
    found = flops / (flops_per_second * mfu)
    if math.isinf(found):
        raise OverflowError(
            f"{flops:g} FLOPs at {flops_per_second:g} x {mfu:g} FLOP/s take longer than a float can hold"
        )
    return found


def tokens_within(model: ModelConfig, time: float, flops_per_second: float, mfu: float) -> int:
    """Tokens that a run processes in ``time`` seconds, without the optimizer's FLOPs."""
    check_mfu(mfu)
    budget = Fraction(time) * Fraction(flops_per_second) * Fraction(mfu)
    return int(budget * model.context_length // (3 * forward_flops(model)))


def check_mfu(mfu: float) -> None:
    """Raise a ConfigError unless an MFU is in (0, 1]."""
    if not 0 < mfu <= 1:
        raise ConfigError(f"mfu = {mfu:g}; expected a share of the peak in (0, 1], such as 0.4")


COSTS = {"weights": 1.02, "attention": 1.42, "gate": 1690.0, "scores": 405.0, "logits": 445.0}
"""Cost of each kind of work, forward and backward, in FLOPs of the machine's fastest matmul: per FLOP for "weights" and
"attention", per element for the others. Fitted to 17 shapes on one thread of an AMD Zen 5
(docs/explanation/costs.md)."""
SECONDS_PER_BLOCK = 5e-3
"""Overhead of the calls of one block, independent of their size."""


def cpu_step_seconds(model: ModelConfig, train: TrainConfig, *, batch_size: int, flops_per_second: float) -> float:
    """Predict the seconds of a step with the fast kernels, AdamW and float32.

    Matmuls with weights run near the machine's fastest. The rest of a step counts few FLOPs but takes time: attention's
    matmuls are small, and norms, rotations, the gate, the softmax and the loss are limited by memory bandwidth.

    Args:
        batch_size: sequences of a step.
        flops_per_second: of a matmul of two large square matrices, on the threads of the run.
    """
    work = step_work(model, train, batch_size)
    flops = sum(COSTS[kind] * amount for kind, amount in work.items())
    return flops / flops_per_second + SECONDS_PER_BLOCK * model.num_layers


def step_work(model: ModelConfig, train: TrainConfig, batch_size: int) -> dict[str, int]:
    """Work of a step by kinds that differ in cost.

    FLOPs of matmuls with weights and of attention's; elements of the gate (to which norms and residual sums are
    proportional), of the scores, and of the logits.
    """
    tokens, layers = batch_size * model.context_length, model.num_layers
    matmuls = forward_matmuls(model, batch_size=batch_size)
    attention = 3 * sum(matmul.flops for matmul in matmuls if matmul.component in ("scores", "values"))
    everything = 3 * sum(matmul.flops for matmul in matmuls)
    return {
        "weights": everything - attention,
        "attention": attention + batch_size * recomputed_flops(model, train),
        "gate": layers * tokens * model.ffn_dim,
        "scores": layers * batch_size * model.num_heads * model.context_length**2,
        "logits": tokens * model.vocab_size,
    }
