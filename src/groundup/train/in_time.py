"""Training to a deadline: planned steps, and fewer steps if the machine is slower than planned."""

from __future__ import annotations

import time
from collections.abc import Callable

from groundup.config import RunConfig, override
from groundup.display.display import Display
from groundup.train.loop import TrainResult, train

_GRACE = 0.15
"""Share of the planned time by which a run may be late before it counts as behind. The plan does not include
evaluations and samples."""
_LEAST_SECONDS = 1.0


def train_in_time(
    config: RunConfig,
    *,
    planned: float,
    limit: float,
    display: Display,
    clock: Callable[[], float] = time.monotonic,
) -> TrainResult:
    """Train the steps of the config in at most about ``limit`` seconds. Replaces an earlier run.

    A run that keeps to its plan equals one without a limit, bit for bit. A run that falls behind saves a checkpoint and
    resumes with ``train.finish_schedule``: the rest of the schedule takes the rest of the time, in fewer steps.

    Args:
        planned: expected seconds of the steps; less than the limit.
        clock: returns seconds.
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
        f"other programs use the processor; training still ends in {left / 60:.1f} minutes, after fewer steps"
    )
    config = override(config, {"train.max_minutes": round(left / 60, 2), "train.finish_schedule": True})
    return train(config, resume=True, display=display)


def is_behind(share_done: float, elapsed: float, planned: float) -> bool:
    """Whether a run that has done this share of its steps is later than planned, by more than 15 % of the plan."""
    return elapsed > planned * (share_done + _GRACE)
