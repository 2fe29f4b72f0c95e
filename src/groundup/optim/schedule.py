"""The learning rate as a function of the step."""

import math

from groundup.config import OptimConfig
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

    Args:
        step: counted from 1, so that the first step moves and the last one is at the minimum. It may lie between two
            steps; see :func:`learning_rate_at`.
        total_steps: T. With a longer warm-up the learning rate never decays.
    """
    high, low, warmup = config.max_learning_rate, config.min_learning_rate, config.warmup_iters
    if config.schedule == "cosine":
        return get_lr_cosine_schedule(step, high, low, warmup, total_steps)
    if step < warmup:
        return step / warmup * high
    if config.schedule == "constant":
        return high
    if step >= total_steps:
        return low
    descent = _end_of_plateau(total_steps, config) if config.schedule == "wsd" else warmup
    if step <= descent:
        return high
    # Rounding could carry the line a bit below its end.
    return max(low, high - (step - descent) / (total_steps - descent) * (high - low))


def _end_of_plateau(total_steps: int, config: OptimConfig) -> float:
    return max(config.warmup_iters, (1 - config.decay_fraction) * total_steps)


def last_shared_step(total_steps: int, config: OptimConfig) -> int:
    """Return the last step until which a longer run has the same learning rates, bit for bit.

    For wsd it is the end of the plateau, for constant the last step. 0 for cosine and linear: after the warm-up, the
    rate of every step depends on the length of the run.
    """
    if config.schedule == "constant":
        return total_steps
    if config.schedule == "wsd":
        return min(int(_end_of_plateau(total_steps, config)), total_steps - 1)
    return 0


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
    course = {
        "cosine": "cosine to",
        "wsd": f"flat, then a straight line over the last {100 * config.decay_fraction:g} % to",
        "linear": "straight line to",
    }
    end = f"{course[config.schedule]} {config.min_learning_rate:g}" if config.schedule in course else "constant"
    return f"{config.max_learning_rate:g} after {config.warmup_iters} steps, {end}"
