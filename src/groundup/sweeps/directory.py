"""The directory of a sweep: the plan, a run directory for each cell, and what came of them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from groundup.config import changed_options, flatten
from groundup.data.shards import TokenShards
from groundup.errors import ConfigError, DataError, TrainingError
from groundup.record import read_objects
from groundup.record.sinks import read_jsonl
from groundup.sweeps.attempt import STOP_FILE
from groundup.sweeps.plan import Plan
from groundup.sweeps.results import Result
from groundup.sweeps.trials import Cell
from groundup.system.files import locked, read_json, text_bytes, write_atomically
from groundup.system.reading import read_bytes, why
from groundup.version import VERSION, installed_version

# What may differ in a cell that is taken over: where it lies and runs, and who is told of it.
_FREE = ("name", "runs_dir", "train.device", "track.")
_TOKENS = ("data.train", "data.valid")
_PATHS = (*_TOKENS, "data.vocab", "data.merges")


class SweepDirectory:
    """``sweep.json`` (the plan and the options of every cell), ``results.jsonl`` (a line for every cell that has
    ended, the last one counts), and the cells' run directories.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.stop_file = self.path / STOP_FILE
        self._results = self.path / "results.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the directory to this sweep.

        Raises:
            TrainingError: another process runs a sweep in it.
        """
        taken = TrainingError(f"{self.path} has a sweep running in another process; wait for it, or stop it")
        with locked(self.path / ".lock", taken):
            self.stop_file.unlink(missing_ok=True)
            self._cut_torn_line()
            yield

    def adopt(self, plan: Plan, cells: Iterable[Cell]) -> list[str]:
        """Write down what the cells are, after a look at what is there: a cell goes on only if it is the same.

        Returns:
            Cells whose results are forgotten: options or tokens are others now, and somebody has removed their runs.

        Raises:
            ConfigError: a cell was begun with other options, or on other tokens; it is named with what differs.
            TrainingError: the folder of a cell holds a run that no sweep has begun.
            DataError: ``sweep.json`` is damaged.
        """
        cells = list(cells)
        base = _settled(flatten(plan.base))
        before = self._document()
        known, tokens = _options_of(before), _tokens_of(cells)
        outdated = self._check_tokens(known, before.get("tokens", {}), tokens)
        now = {cell.name: _settled(flatten(cell.config)) for cell in cells}
        for name, options in now.items():
            begun = (self.path / name / "config.toml").exists()
            then = known.get(name)
            if then is None and begun:
                raise TrainingError(
                    f"{self.path / name} holds a run that this sweep has not begun; move it away, or choose another "
                    f"--directory"
                )
            changed = changed_options(then, options, _FREE) if then is not None else []
            if changed and begun:
                raise ConfigError(
                    f"{self.path / name} was begun with other options: {', '.join(changed)}; put the plan back, remove "
                    f"the folder, or choose another --directory"
                )
            if changed:
                outdated.append(name)
        document = {
            "plan": plan.document,
            "sha256": plan.sha256,
            "budget": plan.chosen,
            "versions": {"groundup": VERSION, "python": platform.python_version()}
            | {package: installed_version(package) for package in ("torch", "numpy")},
            "tokens": before.get("tokens", {}) | tokens,
            "base": base,
            "cells": {name: _difference(options, base) for name, options in (known | now).items()},
        }
        self.path.mkdir(parents=True, exist_ok=True)
        self._forget(outdated)
        write_atomically(self.path / "sweep.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        return outdated

    @property
    def budget(self) -> str | None:
        """Of those that the plan has, the one that was chosen; None where none was, or nothing is there yet.

        Raises:
            DataError: ``sweep.json`` is damaged.
        """
        return self._document().get("budget")

    def _check_tokens(self, known: Mapping[str, Mapping[str, Any]], then: Any, now: Mapping[str, str]) -> list[str]:
        """Cells that have ended are not looked at again; what they were trained on must still be the same.

        Returns:
            Those of which it is not, and whose runs somebody has removed.
        """
        changed = {path for path, sha256 in now.items() if then.get(path, sha256) != sha256}
        outdated = []
        for name in self.results():
            options = known.get(name, {})
            found = next((option for option in _TOKENS if options.get(option) in changed), None)
            if found is not None and (self.path / name / "config.toml").exists():
                path = options[found]
                raise ConfigError(
                    f"{found} = {path} is not what {self.path / name} was trained on (SHA-256 {then[path][:12]}…, now "
                    f"{now[path][:12]}…); restore it, remove the folder, or choose another --directory"
                )
            if found is not None:
                outdated.append(name)
        return outdated

    def _document(self) -> dict[str, Any]:
        """``sweep.json``; empty where there is none yet.

        Raises:
            DataError: it is damaged.
        """
        path = self.path / "sweep.json"
        try:
            document = read_json(path)
            _check(document)
            return dict(document)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged ({why(error)}); restore it, or choose another --directory") from None

    def results(self) -> dict[str, Result]:
        """The last line of each cell.

        Raises:
            DataError: a line is none of ours.
        """
        if not self._results.exists():
            return {}
        try:
            record = read_objects(self._results)
        except OSError as error:
            raise DataError(f"{self._results} cannot be read: {why(error)}; restore it") from None
        found: dict[str, Result] = {}
        wrong = dict(record.damaged)
        for number, line in zip(record.places, record.lines, strict=True):
            try:
                result = Result.from_line(line)
            except ValueError as error:
                wrong[number] = str(error)
            else:
                found[result.cell] = result
        if wrong:
            number = min(wrong)
            raise DataError(
                f"{self._results} is damaged: line {number}: {wrong[number]}; remove the line, and its cell is looked "
                f"at again"
            )
        return found

    def add(self, result: Result) -> None:
        """Append a result, and see it to the disk."""
        line = json.dumps(result.__dict__, ensure_ascii=False) + "\n"
        with self._results.open("ab") as file:
            file.write(text_bytes(line))
            file.flush()
            os.fsync(file.fileno())

    def _forget(self, cells: Collection[str]) -> None:
        """Drop the results of these cells."""
        if cells and self._results.exists():
            kept = [line for line in read_jsonl(self._results) if line["cell"] not in cells]
            write_atomically(self._results, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))

    def _cut_torn_line(self) -> None:
        """Drop a line that a kill has left half written, before another is glued to it."""
        if not self._results.exists():
            return
        content = read_bytes(self._results)
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self._results, whole)


def _check(document: Any) -> None:
    """Refuse what cannot be a ``sweep.json``.

    Raises:
        ValueError: a part is missing or of another type.
    """
    if not isinstance(document, dict):
        raise ValueError(f"it has a {type(document).__name__}; expected an object")
    for name in ("base", "cells", "tokens"):
        if not isinstance(document.get(name, {} if name == "tokens" else None), dict):
            raise ValueError(f"{name!r} is no object")
    if not document["cells"] or not document["base"]:
        raise ValueError("it names no cells")
    for name, options in {"base": document["base"], **document["cells"]}.items():
        if not isinstance(options, dict) or not all(isinstance(v, str | int | float | bool) for v in options.values()):
            raise ValueError(f"the options of {name!r} are not plain values")
    if not all(isinstance(sha256, str) for sha256 in document.get("tokens", {}).values()):
        raise ValueError("'tokens' has something other than hashes")
    if not isinstance(document.get("budget"), str | None):
        raise ValueError("'budget' is no name")


def _settled(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they hold from any folder."""
    return {name: os.path.realpath(value) if name in _PATHS and value else value for name, value in options.items()}


def _options_of(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Options of all cells that were ever begun."""
    if not document:
        return {}
    base = document["base"]
    return {name: base | difference for name, difference in document["cells"].items()}


def _tokens_of(cells: Iterable[Cell]) -> dict[str, str]:
    """SHA-256 of the tokens that cells are trained and measured on, by where they lie."""
    paths = {str(value) for cell in cells for name in _TOKENS if (value := _settled(flatten(cell.config))[name])}
    # Other machines of a cluster may have what is not here.
    return {path: TokenShards.open(path).sha256 for path in sorted(paths) if Path(path).exists()}


def _difference(options: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in base or base[name] != value}
