"""A sweep's directory: the one reader and writer of ``sweep.json`` and ``results.jsonl``.

``sweep.json`` holds the plan and the options of every trial. ``results.jsonl`` has a line for every trial that ended;
the last line of a trial counts. On disk a trial is a "cell" and a setting a "condition", as in version 0.1.

A report reads what is intact and describes the damage (:func:`read_sweep`). A sweep that continues must not lose a
result, so any damage is an error there (:class:`SweepDirectory`).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from groundup.errors import DataError, TrainingError
from groundup.record.metrics import Record, finite, read_objects
from groundup.system.files import locked, read_bytes, read_json, text_bytes, why, write_atomically

DOCUMENT, RESULTS, STOP_FILE = "sweep.json", "results.jsonl", ".stop"
"""Names of files in a sweep's directory. While the stop file is there, running trials save a checkpoint and stop."""

Status = Literal["finished", "diverged", "stopped", "crashed"]

_ON_DISK = {"trial": "cell", "setting": "condition"}
_IN_MEMORY = {on_disk: name for name, on_disk in _ON_DISK.items()}
_TEXTS = ("cell", "condition", "run", "message")
_COUNTS = ("seed", "attempts", "steps", "tokens")


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """How a trial ended. A crashed trial is tried again by the next sweep in the same directory; the others are not."""

    trial: str
    setting: str
    varied: dict[str, Any]
    variant: str | None
    seed: int
    status: Status
    attempts: int
    """One, plus one for each time the trial crashed or lost its process in the sweep that ended it."""
    run: str
    """Run directory, relative to the sweep's."""
    steps: int
    tokens: int
    seconds: float
    """Wall-clock time, summed over all sessions."""
    train_loss: float | None
    val_loss: float | None
    best_val_loss: float | None
    val_bpb: float | None
    message: str = ""
    """Why the trial diverged, was stopped or crashed."""

    def to_line(self) -> dict[str, Any]:
        """The line of ``results.jsonl``, which is also what ``groundup sweep --json`` prints."""
        return {_ON_DISK.get(name, name): value for name, value in self.__dict__.items()}

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> TrialResult:
        """Check a line of ``results.jsonl``.

        Raises:
            ValueError: a key is missing or unknown, or a value has the wrong type.
        """
        known = {_ON_DISK.get(f.name, f.name) for f in dataclasses.fields(cls)}
        if unknown := sorted(line.keys() - known):
            raise ValueError(f"{unknown[0]} is unknown")
        if missing := sorted(known - {"message"} - line.keys()):
            raise ValueError(f"{missing[0]} is missing")
        for key, value in line.items():
            if not _is_of_type(key, value):
                raise ValueError(f"{key} is {str(value)[:40]!r}")
        return cls(**{_IN_MEMORY.get(key, key): value for key, value in line.items()})

    @property
    def has_ended(self) -> bool:
        """Whether no attempt is left to make."""
        return self.status != "crashed"


def _is_of_type(key: str, value: Any) -> bool:
    if key == "varied":
        return isinstance(value, dict)
    if key == "status":
        return value in get_args(Status)
    if key in _TEXTS or (key == "variant" and value is not None):
        return isinstance(value, str)
    if key in _COUNTS:
        return type(value) is int and value >= 0
    return (value is None and key != "seconds") or finite(value) is not None


@dataclass(frozen=True, kw_only=True)
class SweepDocument:
    """``sweep.json``, checked."""

    plan: dict[str, Any]
    sha256: str = ""
    """SHA-256 of the plan's text."""
    budget: str | None = None
    """Name of the budget chosen from the plan's [budgets]."""
    versions: dict[str, str | None] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the token files by path."""
    base: dict[str, Any]
    """Options of the recipe and the plan."""
    trials: dict[str, dict[str, Any]]
    """All options of each trial ever begun. The file stores the difference from ``base``."""

    def to_json(self) -> dict[str, Any]:
        base = self.base
        return {
            "plan": self.plan,
            "sha256": self.sha256,
            "budget": self.budget,
            "versions": self.versions,
            "tokens": self.tokens,
            "base": base,
            "cells": {
                trial: {name: value for name, value in options.items() if name not in base or base[name] != value}
                for trial, options in self.trials.items()
            },
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> SweepDocument:
        """Check the content of ``sweep.json``.

        Raises:
            ValueError: a part is missing or has the wrong type.
        """
        tokens, cells, base = document.get("tokens", {}), document.get("cells"), document.get("base")
        for name, table in (("tokens", tokens), ("cells", cells), ("base", base)):
            if not isinstance(table, dict):
                raise ValueError(f"{name!r} is not an object")
        assert isinstance(cells, dict)
        if not cells or not base:
            raise ValueError("it names no cells")
        for name, options in {"base": base, **cells}.items():
            kinds = str | int | float | bool | None
            plain = isinstance(options, dict) and all(isinstance(v, kinds) for v in options.values())
            if not plain:
                raise ValueError(f"the options of {name!r} are not plain values")
        if not all(isinstance(sha256, str) for sha256 in tokens.values()):
            raise ValueError("'tokens' has something other than hashes")
        budget = document.get("budget")
        if not isinstance(budget, str | None):
            raise ValueError("'budget' is not a name")
        trials = {name: base | difference for name, difference in cells.items()}
        return cls(plan=_object(document, "plan"), budget=budget, tokens=tokens, base=base, trials=trials)


class SweepDirectory:
    """The directory of a sweep that runs: damage is an error."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.stop_file = self.path / STOP_FILE

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory for this process.

        Raises:
            TrainingError: another process runs a sweep in it.
        """
        taken = TrainingError(f"{self.path} has a sweep running in another process; wait for it, or stop it")
        with locked(self.path / ".lock", taken):
            self.stop_file.unlink(missing_ok=True)
            self._cut_torn_line()
            yield

    def document(self) -> SweepDocument | None:
        """``sweep.json``; None if there is none yet.

        Raises:
            DataError: it is damaged.
        """
        try:
            return SweepDocument.from_json(_read_document(self.path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path / DOCUMENT} is damaged ({why(error)}); restore it, or choose another --directory"
            ) from None

    def write(self, document: SweepDocument) -> None:
        """Write ``sweep.json``."""
        content = json.dumps(document.to_json(), indent=1, ensure_ascii=False)
        write_atomically(self.path / DOCUMENT, content + "\n")

    def results(self) -> dict[str, TrialResult]:
        """The last line of each trial.

        Raises:
            DataError: a line is damaged.
        """
        path, found = self.path / RESULTS, dict[str, TrialResult]()
        if not path.exists():
            return found
        try:
            record = read_objects(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {why(error)}; restore it") from None
        damaged = dict(record.damaged)
        for number, line in zip(record.places, record.lines, strict=True):
            try:
                result = TrialResult.from_line(line)
            except ValueError as error:
                damaged[number] = str(error)
            else:
                found[result.trial] = result
        if damaged:
            number = min(damaged)
            raise DataError(
                f"{path} is damaged: line {number}: {damaged[number]}; remove the line, and the sweep checks its trial "
                "again"
            )
        return found

    def add(self, result: TrialResult) -> None:
        """Append a result and flush it to the disk."""
        with (self.path / RESULTS).open("ab") as file:
            file.write(text_bytes(_line(result.to_line())))
            file.flush()
            os.fsync(file.fileno())

    def forget(self, trials: Collection[str]) -> None:
        """Remove the results of these trials."""
        if trials and (self.path / RESULTS).exists():
            lines = (line for line in read_objects(self.path / RESULTS).lines if line["cell"] not in trials)
            write_atomically(self.path / RESULTS, "".join(map(_line, lines)))

    def _cut_torn_line(self) -> None:
        """Drop a last line that a kill left incomplete, so that the next line starts on its own."""
        path = self.path / RESULTS
        if path.exists():
            content = read_bytes(path)
            if (whole := content.rfind(b"\n") + 1) < len(content):
                os.truncate(path, whole)


@dataclass(frozen=True)
class SweepRecord:
    """What is intact of a sweep's directory, for a report."""

    plan: dict[str, Any]
    budget: str


def is_sweep(folder: Path) -> bool:
    """Whether a folder is a sweep's; its ``sweep.json`` may be damaged, or not a file."""
    return os.path.lexists(folder / DOCUMENT)


def read_sweep(folder: Path) -> SweepRecord:
    """Plan and budget of a sweep, as far as they are intact.

    Raises:
        DataError: ``sweep.json`` is not a JSON object.
    """
    path = folder / DOCUMENT
    try:
        document = _read_document(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {why(error)}; restore it, or report on the runs below it") from None
    plan = document if not isinstance(document.get("plan"), dict) else document["plan"]
    return SweepRecord(plan, str(document.get("budget") or ""))


def latest_results(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """The last line of ``results.jsonl`` for each run, keyed as :class:`TrialResult`; any key may be missing.

    Returns:
        The lines, and a description of damaged lines, which are left out; empty if there are none.
    """
    try:
        record = read_objects(folder / RESULTS)
    except OSError as error:
        return [], f"{RESULTS} cannot be read: {why(error)}"
    return list(_latest(record).values()), record.note


def _latest(record: Record) -> dict[str, dict[str, Any]]:
    lines = [{_IN_MEMORY.get(key, key): value for key, value in line.items()} for line in record.lines]
    return {str(line.get("run") or line.get("trial")): line for line in lines}


def _read_document(folder: Path) -> dict[str, Any]:
    document = read_json(folder / DOCUMENT)
    if not isinstance(document, dict):
        raise ValueError(f"expected an object, found {type(document).__name__}")
    return document


def _object(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"
