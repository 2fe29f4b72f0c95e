"""When a run saves what it has trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import nn

from groundup.optim import CombinedOptimizer
from groundup.train.checkpoint.folder import CheckpointContent
from groundup.train.checkpoint.gathered import RankedCheckpoints
from groundup.train.checkpoint.writer import CheckpointWriter
from groundup.train.state import TrainState


class SaveTimer:
    """The longest time that a run trains without a checkpoint (``train.checkpoint_minutes``).

    Args:
        minutes: 0 for no limit.
        clock: seconds.
    """

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic):
        self._limit, self._clock = 60 * minutes, clock
        self.restart()

    def restart(self) -> None:
        """A checkpoint has everything that was trained until now."""
        self._began = self._clock()

    @property
    def due(self) -> bool:
        """Whether a checkpoint is to be saved before the next step."""
        return bool(self._limit) and self._clock() - self._began >= self._limit


class Saving:
    """Saves the state of a run, each step at most once; all ranks must call its methods.

    Args:
        identity: entries of ``state.json`` that stay the same in a session.
        clock: seconds of the run so far.
        saved: the step whose checkpoint is on the disk already; None at the start of a run.
    """

    def __init__(
        self,
        writer: CheckpointWriter | RankedCheckpoints,
        model: nn.Module,
        optimizer: CombinedOptimizer,
        state: TrainState,
        identity: dict[str, Any],
        *,
        clock: Callable[[], float],
        timer: SaveTimer,
        saved: int | None,
    ):
        self.writer, self.timer = writer, timer
        self._model, self._optimizer, self._state, self._identity = model, optimizer, state, identity
        self._clock, self._saved = clock, saved

    def save(self, *, wait: bool = False) -> None:
        """Save the latest step, unless it is saved.

        Args:
            wait: return when it is on the disk.
        """
        state = self._state
        if self._saved != state.step:
            state.wall_seconds = self._clock()
            content = CheckpointContent.of(self._model, self._optimizer, state.to_dict() | self._identity)
            self.writer.save(state.step, content, wait=wait)
            self._saved = state.step
        self.timer.restart()
        if wait:
            self.writer.wait()

    def settle(self, *, best: bool) -> None:
        """Write down that the report of the latest step is made, if the step is saved.

        Args:
            best: its validation loss is the best so far.
        """
        state = self._state
        if self._saved == state.step:
            self.writer.settle(state.step, state.to_dict(), best=best)
