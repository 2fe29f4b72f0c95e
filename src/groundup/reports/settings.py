"""Runs that answer one question: a sweep directory, or run directories that were named together."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundup.account.flops import count_flops
from groundup.errors import DataError, FileMissingError
from groundup.record import read_objects
from groundup.record.read import Run, finite, is_run, is_sweep, read_run
from groundup.reports.statistics import Difference, Estimate, compare, estimate, holm
from groundup.system.files import read_json
from groundup.system.reading import why

_SEED = "train.seed"
# Options that change what is written down, or where, but not what is learned.
_INCIDENTAL = ("name", "runs_dir", _SEED, "train.profile", "train.peak_tflops", "train.spike_factor")
_INCIDENTAL_ENDINGS = ("log_interval", "ratio_interval", "checkpoint_interval", "checkpoints", "checkpoint_format")
_INCIDENTAL_SECTIONS = ("track.", "sample.")
_MOST_OPTIONS_IN_A_LABEL = 3


@dataclass(eq=False)
class Cell:
    """Runs that differ in nothing but their seed."""

    label: str
    varied: dict[str, Any]
    variant: str
    runs: list[Run]

    def values(self, measure: str) -> dict[int, float]:
        """A measure by seed, of the runs that got to their end."""
        found = {run.seed: run.figures.get(measure) for run in self.runs if run.status == "finished"}
        return {seed: value for seed, value in found.items() if value is not None}

    def estimate(self, measure: str) -> Estimate | None:
        """Mean and interval over the seeds; None where no run has the measure."""
        values = list(self.values(measure).values())
        return estimate(values) if values else None

    @property
    def diverged(self) -> int:
        """How many of its runs diverged."""
        return sum(run.diverged for run in self.runs)

    @property
    def all_diverged(self) -> bool:
        return self.diverged == len(self.runs)

    @property
    def unstable(self) -> int:
        """How many of its runs diverged, or had a loss above that of the untrained model on the way."""
        return sum(run.unstable for run in self.runs)

    @property
    def all_unstable(self) -> bool:
        return self.unstable == len(self.runs)


@dataclass(eq=False)
class Study:
    """Cells, and what they are compared by."""

    name: str
    cells: list[Cell]
    question: str = ""
    folder: Path | None = None
    """Of the sweep; none where runs were named one by one."""
    plan: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    budget: str = ""
    """The one that was chosen of those that the plan has."""
    damage: str = ""
    """What is wrong with the sweep's own record."""
    baseline: Cell | None = None
    measure: str = "val_loss"
    """Validation loss; bits per byte where the runs differ in tokenizer or text, since their losses do not compare."""

    @property
    def runs(self) -> list[Run]:
        return [run for cell in self.cells for run in cell.runs]

    @property
    def axis(self) -> str | None:
        """The one option that varies, if it is one, by numbers, and takes three or more."""
        names = {name for cell in self.cells for name in cell.varied}
        if len(names) != 1 or len(self.cells) < 3 or len({cell.variant for cell in self.cells}) > 1:
            return None
        (name,) = names
        values = [cell.varied.get(name) for cell in self.cells]
        return name if all(_is_number(value) for value in values) and len(set(values)) == len(values) else None

    @property
    def ranked(self) -> list[tuple[Cell, Estimate]]:
        """Cells that have the measure, the lowest first, and after them those that diverge with some seeds."""
        found = [(cell, value) for cell in self.cells if (value := cell.estimate(self.measure)) is not None]
        return sorted(found, key=lambda pair: (pair[0].diverged > 0, pair[1].mean))

    def differences(self, reference: Cell) -> dict[str, tuple[Difference, float]]:
        """Each other cell minus the reference, by label, with its p corrected for how many there are (Holm).

        Cells that diverge with some seeds are left out: the seeds that are left are the lucky ones.
        """
        theirs, found = reference.values(self.measure), {}
        for cell in self.cells:
            if cell is reference or cell.diverged or reference.diverged:
                continue
            difference = compare(cell.values(self.measure), theirs)
            if difference is not None:
                found[cell.label] = difference
        corrected = holm([difference.p for difference in found.values()])
        return {
            label: (difference._replace(comparisons=len(found)), p)
            for (label, difference), p in zip(found.items(), corrected, strict=True)
        }


_read = functools.partial(read_run, count_flops=count_flops)


def load_studies(paths: Sequence[str | Path]) -> list[Study]:
    """A study for each sweep directory, and one for all run directories that were named.

    A folder that is neither gives the sweeps and runs below it. A name that does not exist is looked for in runs/.

    Raises:
        FileMissingError: there is no such folder.
        DataError: nothing in it is a run.
    """
    sweeps: dict[Path, Study] = {}
    singles: dict[Path, Run] = {}
    for given in paths:
        folder = _existing(Path(given))
        places = list(find_runs(folder))
        if not places:
            raise DataError(f"{folder} holds no run and no sweep; expected a folder that `groundup train` has made")
        for place in places:
            key = Path(os.path.realpath(place))
            if key in sweeps or key in singles:
                continue
            if is_sweep(place):
                sweeps[key] = load_sweep(place)
            else:
                singles[key] = _read(place)
    studies = list(sweeps.values())
    names = [study.name for study in studies]
    for study in studies:
        if names.count(study.name) > 1 and study.folder is not None:  # one plan in several folders
            study.name += f" ({study.folder.name})"
    if singles:
        studies.append(_study_of_runs(list(singles.values())))
    return studies


def find_runs(folder: Path, *, into_sweeps: bool = False) -> Iterator[Path]:
    """Sweeps and runs at or below a folder, in order of their names.

    Args:
        into_sweeps: give the runs of a sweep instead of the sweep.
    """
    for place, folders, _ in os.walk(folder):
        here = Path(place)
        if is_sweep(here) and not into_sweeps:
            yield here
            folders.clear()
        elif is_run(here) and not (is_sweep(here) and here == folder):
            yield here
            folders.clear()  # checkpoints and a tokenizer are no runs
        folders.sort()
        folders[:] = [name for name in folders if not name.startswith(".")]


def load_sweep(folder: Path) -> Study:
    """A sweep with the runs that it has so far."""
    document = _object(folder / "sweep.json")
    plan = document.get("plan") if isinstance(document.get("plan"), dict) else document
    assert isinstance(plan, dict)
    runs: list[Run] = []
    results, damage = latest_results(folder)
    for result in results:
        place = folder / str(result.get("run") or result.get("cell"))
        run = _read(place) if is_run(place) else Run(place, problem="its folder is missing")
        runs.append(apply_result(run, result))
    known = {os.path.realpath(run.path) for run in runs}
    others = [_read(place) for place in find_runs(folder, into_sweeps=True) if os.path.realpath(place) not in known]
    options = {name for run in runs for name in run.varied} or _varying(others)
    twins = {_settings(run): run for run in runs if run.options}
    for run in others:  # still going on, or never booked
        run.cell, run.varied = run.path.name, {name: run.options.get(name) for name in options}
        if (twin := twins.get(_settings(run))) is not None:
            run.varied, run.variant = twin.varied, twin.variant
    runs += others
    study = _study(str(plan.get("name") or folder.name), runs)
    study.folder, study.plan, study.question = folder, plan, str(plan.get("question") or "")
    study.damage = damage
    versions = document.get("versions")
    study.versions = versions if isinstance(versions, dict) else {}
    study.budget = str(document.get("budget") or "")
    study.baseline = _baseline(study.cells, plan.get("baseline"))
    return study


def latest_results(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """The last line of ``results.jsonl`` for each run: it is what came of the run in the end.

    Returns:
        The lines, and what is wrong with the file: nothing, or lines that are damaged and left out. The runs
        themselves are still there to be read.
    """
    try:
        record = read_objects(folder / "results.jsonl")
    except OSError as error:
        return [], f"results.jsonl cannot be read: {why(error)}"
    latest = {f"{line.get('run') or line.get('cell')}": line for line in record.lines}
    return list(latest.values()), record.note


def apply_result(run: Run, result: dict[str, Any]) -> Run:
    """A run with what the sweep knows of it, which goes before what its folder says."""
    status = result.get("status")
    if isinstance(status, str) and run.status != "broken":
        run.status = status
    run.cell, run.variant = str(result.get("cell") or run.path.name), str(result.get("variant") or "")
    varied = result.get("varied")
    run.varied = {k: v for k, v in varied.items() if k != _SEED} if isinstance(varied, dict) else {}
    if isinstance(result.get("seed"), int):
        run.options[_SEED] = result["seed"]
    for name in ("steps", "tokens", "seconds", "train_loss", "val_loss", "best_val_loss", "val_bpb"):
        # The training loss is read off the curve, whose end is a mean of enough steps.
        if (value := finite(result.get(name))) is not None and not (name == "train_loss" and name in run.curves):
            run.figures[name] = value
    run.problem = run.problem or str(result.get("message") or "")
    return run


def _study_of_runs(runs: list[Run]) -> Study:
    varying = _varying(runs)
    for run in runs:
        run.varied = {name: run.options.get(name) for name in varying}
    if len(runs) == 1:
        return _study(runs[0].name, runs)
    return _study(f"{len(runs)} runs", runs)


def _varying(runs: Iterable[Run]) -> list[str]:
    runs = list(runs)
    names = dict.fromkeys(name for run in runs for name in run.options)
    return [
        name
        for name in names
        if not _is_incidental(name) and len({_plain(run.options.get(name)) for run in runs if run.options}) > 1
    ]


def _settings(run: Run) -> frozenset[tuple[str, Any]]:
    """All that decides what a run learns, but for its seed."""
    return frozenset((name, _plain(value)) for name, value in run.options.items() if not _is_incidental(name))


def _is_incidental(name: str) -> bool:
    return name in _INCIDENTAL or name.endswith(_INCIDENTAL_ENDINGS) or name.startswith(_INCIDENTAL_SECTIONS)


def _study(name: str, runs: list[Run]) -> Study:
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        varied = json.dumps(run.varied, sort_keys=True, default=str)
        # A damaged run says nothing of its options: it stands for itself.
        groups.setdefault((run.variant, varied if run.varied or run.options else str(run.path)), []).append(run)
    for members in groups.values():
        members.sort(key=lambda run: run.seed)
    keys = [key for run in runs for key in run.varied]
    cells = [Cell(_label(members, keys), members[0].varied, members[0].variant, members) for members in groups.values()]
    if not any(cell.variant for cell in cells):  # variants stand in the order in which their plan names them
        cells.sort(key=_order)
    _tell_apart(cells)
    study = Study(name, cells)
    study.measure = measure_for(runs)
    return study


def measure_for(runs: Sequence[Run]) -> str:
    """What runs are compared by: bits per byte where they differ in tokenizer or text, and all have them."""
    named = [run.options for run in runs if "data.valid" in run.options]  # a damaged run says nothing of them
    texts = {(options.get("model.vocab_size"), options["data.valid"]) for options in named}
    all_have = all(run.figures.get("val_bpb") is not None for run in runs if run.status == "finished")
    return "val_bpb" if len(texts) > 1 and all_have else "val_loss"


def _label(runs: list[Run], names: list[str]) -> str:
    first = runs[0]
    if first.variant:
        return first.variant
    if not first.varied or len(first.varied) > _MOST_OPTIONS_IN_A_LABEL:
        return first.name
    return ", ".join(f"{short_name(name, names)} = {value_text(value)}" for name, value in first.varied.items())


def _tell_apart(cells: list[Cell]) -> None:
    """Labels are what a reader finds a cell by: a variant at several values gets them added, a twin its number."""
    for doubled in {cell.label for cell in cells if sum(other.label == cell.label for other in cells) > 1}:
        for cell in (cell for cell in cells if cell.label == doubled):
            told = ", ".join(f"{short_name(name, cell.varied)} = {value_text(v)}" for name, v in cell.varied.items())
            cell.label = f"{cell.variant}, {told}" if cell.variant and told else f"{cell.label} ({cell.runs[0].path})"


def _order(cell: Cell) -> tuple[Any, ...]:
    """By value: numbers, and after them texts by the alphabet."""
    values = cell.varied.values()
    return tuple((0, value, "") if _is_number(value) else (1, 0, str(value)) for value in values)


def _baseline(cells: list[Cell], wanted: Any) -> Cell | None:
    if isinstance(wanted, dict) and wanted:
        for cell in cells:
            options = cell.runs[0].options | cell.varied | {"variant": cell.variant}
            if all(_plain(options.get(name)) == _plain(value) for name, value in wanted.items()):
                return cell
    if isinstance(wanted, str):
        for cell in cells:
            if wanted in (cell.label, cell.variant, *(run.cell for run in cell.runs)):
                return cell
    return None


def short_name(name: str, names: Iterable[str]) -> str:
    """The last part of an option's name, where no other option of those ends the same."""
    last = name.rpartition(".")[2]
    return name if any(other != name and other.rpartition(".")[2] == last for other in names) else last


def value_text(value: Any) -> str:
    """An option's value as a person writes it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    return json.dumps(value, default=str) if isinstance(value, list | dict) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _object(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {why(error)}; restore it, or report on the runs below it") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no object; restore it, or report on the runs below it")
    return content


def _existing(path: Path) -> Path:
    for candidate in (path, "runs" / path):
        if os.path.isdir(candidate):
            return candidate
    raise FileMissingError(f"no folder {path}, nor {'runs' / path}; expected runs or sweeps, such as runs/NAME")
