"""What watches over a run: loss spikes, the clock, the room on the disk; and what is said when numbers break."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from groundup.config import OptimConfig, TrainConfig
from groundup.errors import DivergenceError, TrainingError
from groundup.train.state import TrainState

_MEMORY_OF_LOSSES = 0.9


def watch_for_spike(state: TrainState, loss: float, factor: float) -> dict[str, float | bool]:
    """Compare a step's loss with the average of those before, which it then joins.

    The average is exponential, a tenth for each new loss, so that it needs some steps to follow a jump that stays.
    Such a jump is one spike, reported at its first step; the next may begin once a loss is near the average again.

    Args:
        state: its ``recent_loss`` is the average, None before the first step; ``spiking`` is whether the step before
            was part of a spike.
        factor: how many times the average is a spike; 0 for never.

    Returns:
        For the step's line of metrics: nothing, or ``loss_spike`` with ``spike_loss`` and ``recent_loss``.
    """
    recent, was_spiking = state.recent_loss, state.spiking
    state.recent_loss = loss if recent is None else _MEMORY_OF_LOSSES * recent + (1 - _MEMORY_OF_LOSSES) * loss
    state.spiking = bool(factor) and recent is not None and loss > factor * recent
    if recent is None or not state.spiking or was_spiking:
        return {}
    return {"loss_spike": True, "spike_loss": loss, "recent_loss": recent}


class TimeLimit:
    """The time limit of a session (``train.max_minutes``).

    With ``train.finish_schedule`` the learning rate comes down within that time: :meth:`progress` says how far the
    run is, by steps or by time, whichever is more. The session then ends with a step at the schedule's very end, which
    may be over a step or two after the limit, and the run is finished. Such a run depends on the machine's speed, so
    that it cannot be repeated step by step; interrupted and resumed, it goes on from the progress that it had reached,
    and spends the rest of the schedule in the new session's time.

    Args:
        reached: progress at the start of the session.
        minutes: of the session, in place of the config's.
        clock: seconds; the session begins now.
    """

    def __init__(
        self,
        config: TrainConfig,
        reached: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        *,
        minutes: float | None = None,
    ):
        self._limit = 60 * (config.max_minutes if minutes is None else minutes)
        self._finish = config.finish_schedule
        self._reached = self._progress = reached
        self._clock = clock
        self._began = clock()
        self._last_asked: float | None = None
        self._step_seconds = math.inf

    @property
    def schedule_finished(self) -> bool:
        """Whether the step that :meth:`progress` was asked for last is the schedule's end; only by finish_schedule."""
        return bool(self._limit) and self._finish and self._progress >= 1

    @property
    def passed(self) -> bool:
        """Whether the session is to end; never without a limit."""
        if not self._limit:
            return False
        return self.schedule_finished if self._finish else self._clock() - self._began >= self._limit

    @property
    def why(self) -> str:
        """What to say of a session that the clock has ended; empty if it was not the clock."""
        if not self.passed:
            return ""
        end = "the schedule is at its end" if self._finish else "the time is up"
        return f"train.max_minutes = {self._limit / 60:g}: {end}; "

    def progress(self, steps: float) -> float:
        """How far the run will be after the coming step, in [0, 1]; to be asked once before each step.

        It is 1 for the step that ends when the time does, judged by the quickest step so far (others may have been
        followed by an evaluation), and never less than it was.

        Args:
            steps: the coming step over the number of all steps.
        """
        if not (self._limit and self._finish):
            return steps
        now = self._clock()
        if self._last_asked is not None:
            self._step_seconds = min(self._step_seconds, now - self._last_asked)
        self._last_asked = now
        ends = now + (self._step_seconds if self._step_seconds < math.inf else 0.0)
        share = min(1.0, (ends - self._began) / self._limit)
        # 1 - (1 - a)(1 - b) and not a + (1 - a) b, which rounding can keep from 1.
        by_clock = 1 - (1 - self._reached) * (1 - share)
        self._progress = min(1.0, max(self._progress, steps, by_clock))
        return self._progress


def checkpoint_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Size of one checkpoint: weights, and the optimizer's moments in float32, one for Muon and two for AdamW."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    moments = sum(
        4 * p.numel() * (1 if group.get("algorithm") == "muon" else 2)
        for group in optimizer.param_groups
        for p in group["params"]
    )
    return weights + moments


def most_checkpoints(config: TrainConfig, *, evaluates: bool) -> int:
    """How many checkpoints lie on the disk at once, at the most: those kept, the best, and one being written."""
    written = -(-config.max_iters // config.checkpoint_interval)
    if evaluates:
        written += config.max_iters // config.eval_interval
    return min(written, config.keep_checkpoints + 2) if config.keep_checkpoints else written


def free_bytes(folder: Path) -> int:
    """Room on the disk that a folder lies on, or will when it is made."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


def diverged(
    error: TrainingError, step: int, learning_rate: float, config: OptimConfig, kept: int | None
) -> DivergenceError:
    """The error of a step whose loss or gradient is not finite, with what is left and what to do.

    Args:
        kept: step of the newest checkpoint.
    """
    left = "no checkpoint had been written yet" if kept is None else f"checkpoint step-{kept} is good"
    message = (
        f"step {step}: {error}, at learning rate {learning_rate:.2e}; nothing was applied and {left}; lower "
        f"optim.max_learning_rate ({config.max_learning_rate:g}) or lengthen optim.warmup_iters ({config.warmup_iters})"
    )
    return DivergenceError(message, step)
