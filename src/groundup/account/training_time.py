"""Operations of a training step and of a run, and the time they take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from groundup.account.flops import forward_flops
from groundup.account.params import parameters
from groundup.config import ModelConfig, OptimConfig
from groundup.errors import ConfigError
from groundup.studies.exercise import ADAMW_FLOPS_PER_PARAMETER

SECONDS_PER_DAY = 86_400
_MUON_ELEMENTWISE = 8
"""Momentum 3, Nesterov 3, step and decay 4, less what both share; for every element of a matrix."""


@dataclass(frozen=True)
class StepFlops:
    """Operations of one optimizer step."""

    forward: int
    backward: int
    optimizer: int

    @property
    def model(self) -> int:
        """What MFU counts: forward and backward."""
        return self.forward + self.backward

    @property
    def total(self) -> int:
        """With the optimizer's."""
        return self.model + self.optimizer


def step_flops(model: ModelConfig, optim: OptimConfig, batch_size: int) -> StepFlops:
    """One step over so many sequences."""
    forward = batch_size * forward_flops(model)
    return StepFlops(forward, 2 * forward, optimizer_flops(model, optim))


def optimizer_flops(model: ModelConfig, optim: OptimConfig) -> int:
    """AdamW: 14 an element. Muon: its Newton-Schulz products for every matrix between embedding and head, AdamW for the
    rest.
    """
    count = parameters(model)
    per_element = ADAMW_FLOPS_PER_PARAMETER["handout"]
    if optim.optimizer != "muon":
        return per_element * count.total
    d, f, kv_width = model.d_model, model.ffn_dim, model.kv_heads * model.head_dim
    shapes = [(d, d), (d, d), (d, kv_width), (d, kv_width), *[(d, f)] * (3 if model.ffn == "swiglu" else 2)]
    layer = sum(
        newton_schulz_flops(*shape, optim.muon_iterations) + _MUON_ELEMENTWISE * shape[0] * shape[1] for shape in shapes
    )
    hidden = sum(rows * columns for rows, columns in shapes)
    return count.num_layers * layer + per_element * (count.total - count.num_layers * hidden)


def newton_schulz_flops(rows: int, columns: int, iterations: int) -> int:
    """Products of the iteration for a matrix: X Xᵀ, its square, and their polynomial times X, the small side first."""
    small, large = sorted((rows, columns))
    return iterations * (2 * small * small * large + 2 * small**3 + 2 * small * small * large)


def seconds(flops: float, flops_per_second: float, mfu: float) -> float:
    """Time of so many operations at a share of a device's peak.

    Raises:
        ConfigError: a share outside (0, 1], or a peak of 0 or less.
        OverflowError: more seconds than a float can hold.
    """
    check_mfu(mfu)
    if not flops_per_second > 0:
        raise ConfigError(f"peak = {flops_per_second:g} FLOP/s; expected a positive number")
    found = flops / (flops_per_second * mfu)
    if math.isinf(found):
        raise OverflowError(
            f"{flops:g} FLOPs at {flops_per_second:g} x {mfu:g} FLOP/s take longer than a float can say"
        )
    return found


def tokens_within(model: ModelConfig, time: float, flops_per_second: float, mfu: float) -> int:
    """Tokens that a run of so many seconds sees; the optimizer's part is left out."""
    check_mfu(mfu)
    budget = Fraction(time) * Fraction(flops_per_second) * Fraction(mfu)
    return int(budget * model.context_length // (3 * forward_flops(model)))


def check_mfu(mfu: float) -> None:
    """Refuse a share that is none."""
    if not 0 < mfu <= 1:
        raise ConfigError(f"mfu = {mfu:g}; expected a share of the peak in (0, 1], such as 0.4")
