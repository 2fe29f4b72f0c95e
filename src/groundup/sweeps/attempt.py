"""One attempt at a trial: train or resume its run in this process, and return how it ended."""

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
from groundup.record.sweep import STOP_FILE
from groundup.system.files import locked

_SECONDS_BETWEEN_LOOKS = 0.3
_PATIENCE_FOR_A_LOCK = 5.0

Ending = Literal["finished", "paused", "interrupted", "diverged", "crashed", "lost"]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Final figures of a run, from its metrics."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    train_loss: float | None = None
    val_loss: float | None = None
    best_val_loss: float | None = None
    val_bpb: float | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """An attempt to make, which can be sent to another process."""

    trial: str
    config: RunConfig
    until: int | None = None
    """Step to pause at; None trains to the end."""

    def to_json(self) -> dict[str, Any]:
        return {"trial": self.trial, "config": to_dict(self.config), "until": self.until}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Job:
        return cls(trial=values["trial"], config=from_dict(RunConfig, values["config"]), until=values["until"])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended."""

    trial: str
    ending: Ending
    figures: Figures = Figures()
    message: str = ""
    signal: int | None = None
    """The signal that interrupted it, if it ran in the sweep's own process."""
    hopeless: bool = False
    """Whether another attempt would end in the same way."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Outcome:
        return cls(**values | {"figures": Figures(**values["figures"])})


class _Pause:
    """Callback between steps: whether the step to pause at is reached, or the stop file exists."""

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
    """Train a trial to its end or to the step to pause at, from its latest checkpoint if it has one.

    A run whose summary says that it is finished is not trained again.
    """
    folder = job.config.run_dir
    if finished(folder):
        return Outcome(trial=job.trial, ending="finished", figures=read_figures(folder))
    if (folder.parent / STOP_FILE).exists():
        return Outcome(trial=job.trial, ending="interrupted")
    try:
        return _train(job, folder)
    except DivergenceError as error:
        figures = dataclasses.replace(read_figures(folder), steps=error.step - 1)
        return Outcome(trial=job.trial, ending="diverged", figures=figures, message=str(error))
    except GroundupError as error:
        # Wrong options, data and files stay wrong; only a failure of the process may not happen again.
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
    result = train(job.config, resume=begun, display=None, pause=pause, session_minutes=left)
    ending: Ending = "finished"
    if not result.finished:
        ending = "interrupted" if result.signal or pause.stopped else "paused"
    return Outcome(trial=job.trial, ending=ending, figures=read_figures(folder), signal=result.signal)


def _crashed(job: Job, folder: Path, message: str, *, hopeless: bool = False) -> Outcome:
    message = " ".join(message.split())[:500]
    return Outcome(trial=job.trial, ending="crashed", figures=read_figures(folder), message=message, hopeless=hopeless)


def _wait_for_the_lock(folder: Path) -> None:
    """Wait for a process that is about to end; if it does not, train() raises the error."""
    end = time.monotonic() + _PATIENCE_FOR_A_LOCK
    while folder.exists() and time.monotonic() < end:
        try:
            with locked(folder / ".lock", BlockingIOError()):
                return
        except BlockingIOError:
            time.sleep(0.1)


def _minutes_left(config: RunConfig, folder: Path) -> float | None:
    """The time limit minus the time that earlier sessions took; train() itself counts each session separately."""
    if not config.train.max_minutes:
        return None
    spent = 0.0
    for state in folder.glob("checkpoints/step-*/state.json"):
        with suppress(OSError, ValueError, TypeError):  # resuming reports a damaged checkpoint
            spent = max(spent, float(read_object(state)["wall_seconds"]))
    return max(config.train.max_minutes - spent / 60, 0.001)


def _forget_peak_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def finished(folder: Path) -> bool:
    """Whether a run's summary says that it is finished."""
    summary = folder / "summary.json"
    try:
        return summary.is_file() and bool(read_object(summary)["finished"])
    except (OSError, ValueError, KeyError):
        return False


def read_figures(folder: Path) -> Figures:
    """The final figures in a run's metrics; zeros and None if there are none."""
    lines = _metrics(folder)
    last = {key: value for line in lines for key, value in line.items() if value is not None}
    # An evaluation before the first step does not count.
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
    """The intact lines of a run's metrics; empty if the file cannot be read."""
    try:
        return read_metrics(folder / "metrics.jsonl").lines
    except OSError:
        return []


def loss_at(folder: Path, step: int) -> float:
    """Validation loss of a run at a step; infinite if it has none."""
    lines = _metrics(folder)
    found = [line["val_loss"] for line in lines if line["step"] == step and line.get("val_loss") is not None]
    return float(found[-1]) if found else math.inf
