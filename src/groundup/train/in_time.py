"""Training to a deadline: planned steps, which the elapsed time ends where the machine becomes slower than planned."""

from __future__ import annotations

import time
from collections.abc import Callable

from groundup.config import RunConfig, override
from groundup.display.display import Display
from groundup.train.loop import TrainResult, train

_GRACE = 0.15
"""Share of the planned time by which a run may be late before it counts as behind: evaluations and samples are not
planned."""
_LEAST_SECONDS = 1.0


def train_in_time(
    config: RunConfig,
    *,
    planned: float,
    limit: float,
    display: Display,
    clock: Callable[[], float] = time.monotonic,
) -> TrainResult:
    """Train the steps of the config from the first one, replacing an earlier run, in about ``limit`` seconds at most.

    A run that keeps to its plan is the same as one without a limit, bit for bit. One that falls behind saves a
    checkpoint and resumes with ``train.finish_schedule``: the rest of its schedule then takes the rest of the time, in
    fewer steps.

    Args:
        planned: seconds that the steps are expected to take; less than the limit.
        clock: seconds.
    """
    began, steps = clock(), config.train.max_iters
    late_at: list[int] = []

    def pause(done: int) -> bool:
        late = is_behind(done / steps, clock() - began, planned)
        if late:
            late_at.append(done)
        return late

    result = train(config, overwrite=True, display=display, pause=pause)
    if not late_at or result.finished or result.signal:
        return result
    elapsed = clock() - began
    left = max(limit - elapsed, _LEAST_SECONDS)
    display.note(
        f"slower than planned: {late_at[0]:,} of {steps:,} steps after {elapsed / 60:.1f} minutes, probably because "
        f"other programs use the processor; training ends in {left / 60:.1f} minutes all the same, after fewer steps"
    )
    config = override(config, {"train.max_minutes": round(left / 60, 2), "train.finish_schedule": True})
    return train(config, resume=True, display=display)


def is_behind(share_done: float, elapsed: float, planned: float) -> bool:
    """Whether a run that has done this share of its steps is later than its plan, by more than a grace."""
    return elapsed > planned * (share_done + _GRACE)
