"""One attempt at a cell, in whichever process and on whichever machine: train, or go on, and say how it ended."""

from __future__ import annotations

import dataclasses
import math
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from groundup.config import RunConfig, from_dict, to_dict
from groundup.errors import DivergenceError, GroundupError, TrainingError
from groundup.record import read_metrics, read_object

STOP_FILE = ".stop"
"""In the sweep's directory: while it is there, running cells write a checkpoint and leave."""
_SECONDS_BETWEEN_LOOKS = 0.3
_PATIENCE_FOR_A_LOCK = 5.0

Ending = Literal["finished", "paused", "interrupted", "diverged", "crashed", "lost"]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is known of a run by its record."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    train_loss: float | None = None
    val_loss: float | None = None
    best_val_loss: float | None = None
    val_bpb: float | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """An attempt to make, as plain values that any process can be told."""

    cell: str
    config: RunConfig
    until: int | None = None
    """Step to pause at."""

    def to_json(self) -> dict[str, Any]:
        return {"cell": self.cell, "config": to_dict(self.config), "until": self.until}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Job:
        return cls(cell=values["cell"], config=from_dict(RunConfig, values["config"]), until=values["until"])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended."""

    cell: str
    ending: Ending
    figures: Figures = Figures()
    message: str = ""
    signal: int | None = None
    """The signal that interrupted it, where its process was the sweep's own."""
    hopeless: bool = False
    """Whether another attempt would end in the same way."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Outcome:
        return cls(**values | {"figures": Figures(**values["figures"])})


class _Pause:
    """Asked between steps: whether the step to pause at has come, or the stop file is there."""

    def __init__(self, until: int | None, stop_file: Path):
        self._until, self._stop_file = until, stop_file
        self._next_look = 0.0
        self.stopped = False

    def __call__(self, step: int) -> bool:
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
            self.stopped = self._stop_file.exists()
        return self.stopped or (self._until is not None and step >= self._until)


def attempt(job: Job) -> Outcome:
    """Train a cell to its end or to the step to pause at, going on from its latest checkpoint if it has one.

    A run whose record says that it is finished is not trained again.
    """
    folder = job.config.run_dir
    if finished(folder):
        return Outcome(cell=job.cell, ending="finished", figures=read_figures(folder))
    if (folder.parent / STOP_FILE).exists():
        return Outcome(cell=job.cell, ending="interrupted")
    try:
        return _train(job, folder)
    except DivergenceError as error:
        figures = dataclasses.replace(read_figures(folder), steps=error.step - 1)
        return Outcome(cell=job.cell, ending="diverged", figures=figures, message=str(error))
    except GroundupError as error:
        # Options, data and broken files stay as they are; only what happens to a process may not happen again.
        hopeless = not isinstance(error, TrainingError)
        return _crashed(job, folder, str(error), hopeless=hopeless)
    except Exception as error:
        traceback.print_exc()
        return _crashed(job, folder, f"{type(error).__name__}: {error}")


def _train(job: Job, folder: Path) -> Outcome:
    from groundup.train import train

    begun = (folder / "config.toml").is_file()
    left = _minutes_left(job.config, folder) if begun else None
    _wait_for_the_lock(folder)
    _forget_peak_memory()
    pause = _Pause(job.until, folder.parent / STOP_FILE)
    result = train(job.config, resume=begun, pause=pause, session_minutes=left)
    ending: Ending = "finished"
    if not result.finished:
        ending = "interrupted" if result.signal or pause.stopped else "paused"
    return Outcome(cell=job.cell, ending=ending, figures=read_figures(folder), signal=result.signal)


def _crashed(job: Job, folder: Path, message: str, *, hopeless: bool = False) -> Outcome:
    message = " ".join(message.split())[:500]
    return Outcome(cell=job.cell, ending="crashed", figures=read_figures(folder), message=message, hopeless=hopeless)


def _wait_for_the_lock(folder: Path) -> None:
    """Give a process that is about to end the time to; one that stays is train's to complain of."""
    from groundup.system.files import locked

    end = time.monotonic() + _PATIENCE_FOR_A_LOCK
    while folder.exists() and time.monotonic() < end:
        try:
            with locked(folder / ".lock", BlockingIOError()):
                return
        except BlockingIOError:
            time.sleep(0.1)


def _minutes_left(config: RunConfig, folder: Path) -> float | None:
    """The limit of time less what the run has spent: by itself, train counts each session anew."""
    if not config.train.max_minutes:
        return None
    spent = 0.0
    for state in folder.glob("checkpoints/step-*/state.json"):
        with suppress(OSError, ValueError, TypeError):  # a damaged checkpoint is named when the run is resumed
            spent = max(spent, float(read_object(state)["wall_seconds"]))
    return max(config.train.max_minutes - spent / 60, 0.001)


def _forget_peak_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def finished(folder: Path) -> bool:
    """Whether a run's record says that it came to its end."""
    try:
        return bool(read_object(folder / "summary.json")["finished"])
    except (OSError, ValueError, KeyError):
        return False


def read_figures(folder: Path) -> Figures:
    """The last of everything that a run's metrics hold; nothing of it where there are none."""
    lines = _metrics(folder)
    last = {key: value for line in lines for key, value in line.items() if value is not None}
    # The loss before the first step is no achievement.
    validated = [line["val_loss"] for line in lines if line.get("val_loss") is not None and line["step"] > 0]
    return Figures(
        steps=last.get("step", 0),
        tokens=last.get("tokens", 0),
        seconds=last.get("wall_seconds", 0.0),
        train_loss=last.get("train_loss"),
        val_loss=validated[-1] if validated else None,
        best_val_loss=min(validated, default=None),
        val_bpb=last.get("val_bpb") if validated else None,
    )


def _metrics(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics; none where the file cannot be read."""
    try:
        return read_metrics(folder / "metrics.jsonl").lines
    except OSError:
        return []


def loss_at(folder: Path, step: int) -> float:
    """Validation loss of a run at a step, infinite where it has none."""
    lines = _metrics(folder)
    found = [line["val_loss"] for line in lines if line["step"] == step and line.get("val_loss") is not None]
    return float(found[-1]) if found else math.inf
