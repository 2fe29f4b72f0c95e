"""What came of the cells: one line of ``results.jsonl`` for each that has ended, and a table of their means."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from groundup.display.section import Section
from groundup.display.units import time_text
from groundup.record.read import finite
from groundup.sweeps.attempt import Figures
from groundup.sweeps.trials import Cell

Status = Literal["finished", "diverged", "stopped", "crashed"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a cell ended. A crashed one is tried again by the next sweep over the same directory; others have ended."""

    cell: str
    condition: str
    varied: dict[str, Any]
    variant: str | None
    seed: int
    status: Status
    attempts: int
    """One, and one more for each time that it crashed or its process was lost, in the sweep that ended it."""
    run: str
    """Run directory, relative to the sweep's."""
    steps: int
    tokens: int
    seconds: float
    """On the run's clock, over all its sessions."""
    train_loss: float | None
    val_loss: float | None
    best_val_loss: float | None
    val_bpb: float | None
    message: str = ""
    """Why it diverged, was stopped or crashed."""

    @classmethod
    def of(cls, cell: Cell, status: Status, attempts: int, figures: Figures, message: str = "") -> Result:
        return cls(
            cell=cell.name, condition=cell.condition, varied=cell.varied, variant=cell.variant, seed=cell.seed,
            status=status, attempts=attempts, run=cell.name, message=message, **dataclasses.asdict(figures),
        )  # fmt: skip

    @classmethod
    def from_line(cls, line: Any) -> Result:
        """A result from a line of ``results.jsonl``.

        Raises:
            ValueError: it is no object, a key is missing, unknown, or has a value of another type.
        """
        if not isinstance(line, dict):
            raise ValueError(f"it has a {type(line).__name__}; expected an object")
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(line.keys() - known):
            raise ValueError(f"{unknown[0]} is unknown")
        if missing := sorted(known - {"message"} - line.keys()):
            raise ValueError(f"{missing[0]} is missing")
        for key, value in line.items():
            if not _is_of_type(key, value):
                raise ValueError(f"{key} is {str(value)[:40]!r}")
        return cls(**line)

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing left to do for it."""
        return self.status != "crashed"


_WORDS = ("cell", "condition", "run", "message")
_COUNTS = ("seed", "attempts", "steps", "tokens")


def _is_of_type(key: str, value: Any) -> bool:
    if key == "varied":
        return isinstance(value, dict)
    if key == "status":
        return value in get_args(Status)
    if key in _WORDS or (key == "variant" and value is not None):
        return isinstance(value, str)
    if key in _COUNTS:
        return type(value) is int and value >= 0
    return (value is None and key != "seconds") or finite(value) is not None


def results_section(results: Iterable[Result], order: Sequence[str] = ()) -> Section:
    """Means over the seeds of each condition, for a person.

    Args:
        order: of the conditions; others follow as they come.
    """
    conditions: dict[str, list[Result]] = {name: [] for name in order}
    for result in results:
        conditions.setdefault(result.condition, []).append(result)
    rows = [_row(name, found) for name, found in conditions.items() if found]
    note = "Means over the seeds that finished, ± the standard deviation between them."
    return Section("results", ("cell", "seeds", "valid loss", "bits/byte", "train loss", "time", "ended"), rows, note)


def _row(name: str, results: list[Result]) -> tuple[str, ...]:
    finished = [result for result in results if result.status == "finished"]
    ends = {status: sum(result.status == status for result in results) for status in ("diverged", "stopped", "crashed")}
    ended = ", ".join(f"{count} {status}" for status, count in ends.items() if count)
    return (
        name,
        f"{len(finished)}",
        _mean([result.val_loss for result in finished]),
        _mean([result.val_bpb for result in finished]),
        _mean([result.train_loss for result in finished]),
        time_text(statistics.mean(result.seconds for result in results)),
        ended or "finished",
    )


def _mean(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    if not numbers:
        return "n/a"
    spread = f" ± {statistics.stdev(numbers):.4f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.4f}{spread}"
