"""State of a run beside weights and optimizer: what an exact resume needs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrainState:
    """Counters of a run. Batches and samples are functions of seed and step, so there is no random state."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    """Tokens trained on."""
    wall_seconds: float = 0.0
    """Elapsed time of the run, over all its sessions."""
    train_seconds: float = 0.0
    """Time spent in training steps, without evaluation, samples and checkpoints."""
    best_val_loss: float | None = None
    best_step: int | None = None
    pending_losses: list[float] = field(default_factory=list)
    """Losses since the last line of metrics; the next line logs their mean."""
    recent_loss: float | None = None
    """Moving average of the losses, to detect spikes; None before the first step."""
    spiking: bool = False
    """Whether the latest loss was far above that average."""
    progress: float = 0.0
    """Share of the schedule that is done, in [0, 1]; by elapsed time with train.finish_schedule."""
    averaged: int = 0
    """Steps whose weights are in the average (train.average_last)."""
    due_line: dict[str, Any] | None = None
    """The latest step's line of metrics while its evaluation is still due: the line without the evaluation's results.
    None if the step needs no evaluation, or its line is in the record."""
    due_sample: bool = False
    """Whether the latest step's sample is still due."""
    last_report: dict[str, Any] | None = None
    """What the report of a run's last step replaced, if this is it: a run that is extended takes the report back."""
    due_report: dict[str, Any] | None = None
    """Arguments of the latest step's report (:meth:`groundup.train.logging.Logger.begin`), which was taken back."""
    parent: dict[str, Any] | None = None
    """The checkpoint whose weights the run began with: ``run``, ``step``, ``weights_sha256``, ``tokenizer_sha256``, and
    its own ``parent``."""
    adopted: list[dict[str, Any]] = field(default_factory=list)
    """Options that were changed on purpose (--adopt-config, more steps): ``step``, ``option``, ``was``, ``now``."""

    @property
    def reported(self) -> bool:
        """Whether nothing of the latest step's report is due."""
        return self.due_line is None and not self.due_sample

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for ``state.json``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainState:
        """Return the state in ``state.json``; its other entries are ignored.

        A field that is newer than the checkpoint has its default; only the counters are required.

        Raises:
            KeyError: a counter is missing.
            ValueError: an entry has the wrong type or range.
        """
        known = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
        state = cls(**known | {name: values[name] for name in ("step", "tokens")})
        for name, value in known.items():
            if not _ACCEPTED[name](value):
                raise ValueError(f"{name} = {str(value)[:40]!r} is not a value of it")
        if state.best_step is not None and state.best_step > state.step:
            raise ValueError(f"best_step = {state.best_step}, which is after its step {state.step}")
        if state.due_line is not None and state.due_line.get("step", state.step) != state.step:
            raise ValueError(f"due_line is of another step than its own, {state.step}")
        return state


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < math.inf


def _is_report(value: Any, *more: str) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"metrics", "found", *more}
        and all(isinstance(value[name], dict) for name in ("metrics", "found"))
    )


_ACCEPTED: dict[str, Callable[[Any], bool]] = {
    "step": _is_count,
    "tokens": _is_count,
    "wall_seconds": _is_number,
    "train_seconds": _is_number,
    "best_val_loss": lambda value: value is None or _is_number(value),
    "best_step": lambda value: value is None or _is_count(value),
    "pending_losses": lambda value: isinstance(value, list) and all(map(_is_number, value)),
    "recent_loss": lambda value: value is None or _is_number(value),
    "spiking": lambda value: isinstance(value, bool),
    "progress": _is_number,
    "averaged": _is_count,
    "due_line": lambda value: value is None or isinstance(value, dict),
    "due_sample": lambda value: isinstance(value, bool),
    "last_report": lambda value: value is None or _is_report(value, "pending_losses", "best_val_loss", "best_step"),
    "due_report": lambda value: value is None or _is_report(value),
    "parent": lambda value: value is None or isinstance(value, dict),
    "adopted": lambda value: isinstance(value, list) and all(isinstance(entry, dict) for entry in value),
}
