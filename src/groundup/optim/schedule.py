"""The learning rate as a function of the step."""

import math
from dataclasses import dataclass

from groundup.config import OptimConfig, RunConfig
from groundup.errors import ConfigError


def get_lr_cosine_schedule(
    it: float, max_learning_rate: float, min_learning_rate: float, warmup_iters: int, cosine_cycle_iters: int
) -> float:
    """Linear warm-up, then half a cosine down to the minimum (Loshchilov & Hutter 2017; Touvron et al. 2023).

        it < Tw:         it / Tw · max
        Tw <= it <= Tc:  min + ½ (1 + cos(π (it - Tw) / (Tc - Tw))) (max - min)
        it > Tc:         min

    Args:
        it: t, counted from 0. warmup_iters: Tw. cosine_cycle_iters: Tc.
    """
    if it < warmup_iters:
        return it / warmup_iters * max_learning_rate
    if it >= cosine_cycle_iters:
        return min_learning_rate
    progress = (it - warmup_iters) / (cosine_cycle_iters - warmup_iters)
    return min_learning_rate + 0.5 * (1 + math.cos(math.pi * progress)) * (max_learning_rate - min_learning_rate)


def learning_rate(step: float, total_steps: int, config: OptimConfig) -> float:
    """Return the learning rate of a step, by ``config.schedule``.

    Every schedule climbs in a straight line from 0 to the peak, which it reaches at step Tw = warmup_iters, and all
    but "constant" are exactly at the minimum at step T = total_steps:

        cosine:    half a cosine from Tw to T (:func:`get_lr_cosine_schedule`)
        wsd:       the peak until max(Tw, (1 - decay_fraction) T), then a straight line
                   (warm-up, stable, decay: Hu et al. 2024, sec. 4; Hägele et al. 2024)
        linear:    a straight line from Tw to T
        constant:  the peak until the end

    With a second stage (``stage_from`` > 0) T is stage_from, and the steps after it have ``stage_schedule``, counted
    from there; its warm-up begins with the rate at T in place of 0.

    Args:
        step: counted from 1, so that the first step moves and the last one is at the minimum. It may lie between two
            steps; see :func:`learning_rate_at`.
        total_steps: T. With a longer warm-up the learning rate never decays.
    """
    start = config.stage_from
    if not start:
        return _rate(step, _first_stage(total_steps, config))
    if step <= start:
        return _rate(step, _first_stage(start, config))
    return _rate(step - start, _second_stage(total_steps, config))


@dataclass(frozen=True)
class _Stage:
    """A warm-up from one rate to another, and a schedule down to a third."""

    schedule: str
    steps: int
    warmup: int
    begin: float
    high: float
    low: float
    decay_fraction: float

    @property
    def descent(self) -> float:
        """The last step at the peak."""
        plateau = (1 - self.decay_fraction) * self.steps if self.schedule == "wsd" else 0
        return max(self.warmup, plateau)


def _first_stage(steps: int, config: OptimConfig) -> _Stage:
    high, low = config.max_learning_rate, config.min_learning_rate
    return _Stage(config.schedule, steps, config.warmup_iters, 0.0, high, low, config.decay_fraction)


def _second_stage(total_steps: int, config: OptimConfig) -> _Stage:
    begin, high, low = config.last_learning_rate, config.stage_peak, config.stage_min_learning_rate
    steps = total_steps - config.stage_from
    return _Stage(config.stage_schedule, steps, config.stage_warmup_iters, begin, high, low, config.decay_fraction)


def _rate(step: float, stage: _Stage) -> float:
    if stage.schedule == "cosine":
        return get_lr_cosine_schedule(step, stage.high, stage.low, stage.warmup, stage.steps)
    if step < stage.warmup:
        return stage.begin + step / stage.warmup * (stage.high - stage.begin)
    if stage.schedule == "constant":
        return stage.high
    if step >= stage.steps:
        return stage.low
    if step <= stage.descent:
        return stage.high
    # Rounding could carry the line a bit below its end.
    share = (step - stage.descent) / (stage.steps - stage.descent)
    return max(stage.low, stage.high - share * (stage.high - stage.low))


def last_shared_step(total_steps: int, config: OptimConfig) -> int:
    """Return the last step until which a longer run has the same learning rates and momentum, bit for bit.

    For wsd it is the end of the plateau, for constant the last step. 0 for cosine and linear, where the rate of every
    step after the warm-up depends on the length. With a second stage, the first one is not made longer.
    """
    start = config.stage_from
    stage = _second_stage(total_steps, config) if start else _first_stage(total_steps, config)
    cooldown = config.muon_momentum_cooldown if config.optimizer == "muon" else 0
    before_cooldown = max(start, total_steps - cooldown)
    if stage.schedule == "constant":
        return before_cooldown
    if stage.schedule == "wsd":
        return min(start + min(int(stage.descent), stage.steps - 1), before_cooldown)
    return 0


MUON_MOMENTUM_ENDS = 0.85
"""Momentum that Muon's warm-up begins with and its cool-down ends with (Jordan et al. 2024)."""


def muon_momentum(step: float, total_steps: int, config: OptimConfig) -> float:
    """Return Muon's momentum in a step: 0.85 in the first one, then a straight line to ``muon_momentum``, and back.

    The warm-up takes ``muon_momentum_warmup`` steps, the cool-down the last ``muon_momentum_cooldown`` ones, to 0.85 in
    the last; where they overlap the smaller share holds. A second stage has a cool-down at its end, and no warm-up.

    Args:
        step, total_steps: as for :func:`learning_rate`.
    """
    begin, end = (config.stage_from, total_steps) if step > config.stage_from else (0, config.stage_from)
    warmup, cooldown = 0 if begin else config.muon_momentum_warmup, config.muon_momentum_cooldown
    share = 1.0
    if warmup:
        share = min(share, (step - 1) / warmup)
    if cooldown:
        share = min(share, (end - step) / cooldown)
    if share >= 1:
        return config.muon_momentum
    return MUON_MOMENTUM_ENDS + max(0.0, share) * (config.muon_momentum - MUON_MOMENTUM_ENDS)


def learning_rate_at(progress: float, total_steps: int, config: OptimConfig) -> float:
    """Return the learning rate at a fraction of the run, for runs limited by time: the same curve, interpolated.

    Such a run passes the fraction of its time that has elapsed; its warm-up takes the fraction
    ``warmup_iters / total_steps`` of the time.

    Args:
        progress: from 0, before the first step, to 1, at the last one; larger values count as 1.

    Raises:
        ConfigError: progress is negative or NaN.
    """
    if not progress >= 0:
        raise ConfigError(f"progress = {progress}; expected the share of the run that is done, from 0 to 1")
    return learning_rate(total_steps if progress >= 1 else progress * total_steps, total_steps, config)


def describe_schedule(config: OptimConfig) -> str:
    """The schedule in words: ``0.001 after 200 steps, cosine to 0.0001``."""
    first = _first_stage(0, config)
    text = f"{first.high:g} after {first.warmup} steps, {_course(first)}"
    if config.stage_from:
        second = _second_stage(config.stage_from, config)
        warmup = f" after {second.warmup} steps" if second.warmup else ""
        text += f"; from step {config.stage_from:,} on {second.high:g}{warmup}, {_course(second)}"
    return text


def _course(stage: _Stage) -> str:
    course = {
        "cosine": "cosine to",
        "wsd": f"flat, then a straight line over the last {100 * stage.decay_fraction:g} % to",
        "linear": "straight line to",
    }
    return f"{course[stage.schedule]} {stage.low:g}" if stage.schedule in course else "constant"


def first_averaged_step(config: RunConfig) -> int:
    """Return the first of the steps whose weights are averaged, counted from 1; that after the last if none are.

    Where the schedule follows the time their number is not known before (:func:`groundup.optim.average.is_averaged`).
    """
    last, start = config.train.max_iters, config.optim.stage_from
    # Rounded, since 0.1 x 30 is a little more than 3.
    return last + 1 - math.ceil(round(config.train.average_last * (last - start), 6))


def last_step_of_any_length(config: RunConfig) -> int:
    """Return the last step until which a longer run is the same: before wsd decays, and before weights are averaged.

    0 if there is none.
    """
    return min(last_shared_step(config.train.max_iters, config.optim), first_averaged_step(config) - 1)


def kept_step(config: RunConfig) -> int:
    """Return the step whose checkpoint is kept for a longer run (:func:`last_step_of_any_length`); 0 for none."""
    step = last_step_of_any_length(config)
    return step if step < config.train.max_iters and not config.train.schedule_by_time else 0
