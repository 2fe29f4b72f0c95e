"""Studies: the runs of a sweep directory, or runs named together, grouped by setting."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundup.account.flops import count_flops
from groundup.display.units import value_text
from groundup.errors import DataError, FileMissingError
from groundup.record.metrics import finite
from groundup.record.read import Run, find_runs, is_run, read_run
from groundup.record.sweep import is_sweep, latest_results, read_sweep
from groundup.reports.statistics import Difference, Estimate, compare, estimate, holm

_SEED = "train.seed"
# Options that change what is recorded, or where, but not the training.
_INCIDENTAL = ("name", "runs_dir", _SEED, "train.profile", "train.peak_tflops", "train.spike_factor")
_INCIDENTAL_ENDINGS = ("log_interval", "ratio_interval", "checkpoint_interval", "checkpoints", "checkpoint_format")
_INCIDENTAL_SECTIONS = ("track.", "sample.")
_MOST_OPTIONS_IN_A_LABEL = 3


@dataclass(eq=False)
class Setting:
    """Runs that differ in their seed only."""

    label: str
    varied: dict[str, Any]
    variant: str
    runs: list[Run]

    def values(self, measure: str) -> dict[int, float]:
        """A measure by seed, of the finished runs."""
        found = {run.seed: run.figures.get(measure) for run in self.runs if run.status == "finished"}
        return {seed: value for seed, value in found.items() if value is not None}

    def estimate(self, measure: str) -> Estimate | None:
        """Mean and confidence interval over the seeds; None if no run has the measure."""
        values = list(self.values(measure).values())
        return estimate(values) if values else None

    @property
    def diverged(self) -> int:
        """Number of runs that diverged."""
        return sum(run.diverged for run in self.runs)

    @property
    def all_diverged(self) -> bool:
        return self.diverged == len(self.runs)

    @property
    def unstable(self) -> int:
        """Number of runs that diverged, or whose loss rose above that of the untrained model."""
        return sum(run.unstable for run in self.runs)

    @property
    def all_unstable(self) -> bool:
        return self.unstable == len(self.runs)


@dataclass(eq=False)
class Study:
    """Settings to compare, and the measure to compare them by."""

    name: str
    settings: list[Setting]
    question: str = ""
    folder: Path | None = None
    """Directory of the sweep; None for runs named one by one."""
    plan: dict[str, Any] = field(default_factory=dict)
    budget: str = ""
    """Name of the budget chosen from the plan's [budgets]."""
    damage: str = ""
    """Description of damage in the sweep's own record."""
    baseline: Setting | None = None
    measure: str = "val_loss"
    """Validation loss, or bits per byte if the runs differ in tokenizer or text, which makes losses incomparable."""

    @property
    def runs(self) -> list[Run]:
        return [run for setting in self.settings for run in setting.runs]

    @property
    def axis(self) -> str | None:
        """The only option that varies, if it has three or more values, all numbers."""
        names = {name for setting in self.settings for name in setting.varied}
        if len(names) != 1 or len(self.settings) < 3 or len({setting.variant for setting in self.settings}) > 1:
            return None
        (name,) = names
        values = [setting.varied.get(name) for setting in self.settings]
        return name if all(_is_number(value) for value in values) and len(set(values)) == len(values) else None

    @property
    def ranked(self) -> list[tuple[Setting, Estimate]]:
        """Settings that have the measure, lowest first, followed by those of which some seeds diverged."""
        found = [(setting, value) for setting in self.settings if (value := setting.estimate(self.measure)) is not None]
        return sorted(found, key=lambda pair: (pair[0].diverged > 0, pair[1].mean))

    def differences(self, reference: Setting) -> dict[str, tuple[Difference, float]]:
        """Each other setting minus the reference, by label, with Holm's corrected p.

        Settings of which some seeds diverged are left out: the remaining seeds are a biased sample.
        """
        theirs, found = reference.values(self.measure), {}
        for setting in self.settings:
            if setting is reference or setting.diverged or reference.diverged:
                continue
            difference = compare(setting.values(self.measure), theirs)
            if difference is not None:
                found[setting.label] = difference
        corrected = holm([difference.p for difference in found.values()])
        return {
            label: (difference._replace(comparisons=len(found)), p)
            for (label, difference), p in zip(found.items(), corrected, strict=True)
        }


_read = functools.partial(read_run, count_flops=count_flops)


def load_studies(paths: Sequence[str | Path]) -> list[Study]:
    """One study for each sweep directory, and one for all other runs together.

    A folder that is neither is searched for sweeps and runs. A path that does not exist is looked up in runs/.

    Raises:
        FileMissingError: the folder does not exist.
        DataError: a folder contains no run, or ``sweep.json`` is damaged.
    """
    sweeps: dict[Path, Study] = {}
    singles: dict[Path, Run] = {}
    for given in paths:
        folder = _existing(Path(given))
        places = list(find_runs(folder))
        if not places:
            raise DataError(
                f"{folder} holds no run and no sweep; expected a folder written by `groundup train` or `groundup sweep`"
            )
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
        if names.count(study.name) > 1 and study.folder is not None:  # the same plan in several folders
            study.name += f" ({study.folder.name})"
    if singles:
        studies.append(_study_of_runs(list(singles.values())))
    return studies


def load_sweep(folder: Path) -> Study:
    """Read a sweep with the runs it has so far."""
    record = read_sweep(folder)
    runs: list[Run] = []
    results, damage = latest_results(folder)
    for result in results:
        place = folder / str(result.get("run") or result.get("trial"))
        run = _read(place) if is_run(place) else Run(place, problem="its folder is missing")
        runs.append(apply_result(run, result))
    known = {os.path.realpath(run.path) for run in runs}
    others = [_read(place) for place in find_runs(folder, into_sweeps=True) if os.path.realpath(place) not in known]
    options = {name for run in runs for name in run.varied} or _varying(others)
    twins = {_fingerprint(run): run for run in runs if run.options}
    for run in others:  # still running, or without a result
        run.trial, run.varied = run.path.name, {name: run.options.get(name) for name in options}
        if (twin := twins.get(_fingerprint(run))) is not None:
            run.varied, run.variant = twin.varied, twin.variant
    runs += others
    plan = record.plan
    study = _study(str(plan.get("name") or folder.name), runs)
    study.folder, study.plan, study.question = folder, plan, str(plan.get("question") or "")
    study.damage, study.budget = damage, record.budget
    study.baseline = _baseline(study.settings, plan.get("baseline"))
    return study


def apply_result(run: Run, result: dict[str, Any]) -> Run:
    """Overlay a run with its line of ``results.jsonl``, which takes precedence over the run directory."""
    status = result.get("status")
    if isinstance(status, str) and run.status != "broken":
        run.status = status
    run.trial, run.variant = str(result.get("trial") or run.path.name), str(result.get("variant") or "")
    varied = result.get("varied")
    run.varied = {k: v for k, v in varied.items() if k != _SEED} if isinstance(varied, dict) else {}
    if isinstance(result.get("seed"), int):
        run.options[_SEED] = result["seed"]
    for name in ("steps", "tokens", "seconds", "train_loss", "val_loss", "best_val_loss", "val_bpb"):
        # The training loss comes from the curve, whose last point averages enough steps.
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


def _fingerprint(run: Run) -> frozenset[tuple[str, Any]]:
    """All options that affect training, without the seed."""
    return frozenset((name, _plain(value)) for name, value in run.options.items() if not _is_incidental(name))


def _is_incidental(name: str) -> bool:
    return name in _INCIDENTAL or name.endswith(_INCIDENTAL_ENDINGS) or name.startswith(_INCIDENTAL_SECTIONS)


def _study(name: str, runs: list[Run]) -> Study:
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        varied = json.dumps(run.varied, sort_keys=True, default=str)
        # The options of a damaged run are unknown: it is a group by itself.
        groups.setdefault((run.variant, varied if run.varied or run.options else str(run.path)), []).append(run)
    for members in groups.values():
        members.sort(key=lambda run: run.seed)
    keys = [key for run in runs for key in run.varied]
    settings = [
        Setting(_label(members, keys), members[0].varied, members[0].variant, members) for members in groups.values()
    ]
    if not any(setting.variant for setting in settings):  # variants keep the order of the plan
        settings.sort(key=_order)
    _tell_apart(settings)
    study = Study(name, settings)
    study.measure = measure_for(runs)
    return study


def measure_for(runs: Sequence[Run]) -> str:
    """The measure to compare runs by: bits per byte if they differ in tokenizer or text and all of them have it."""
    named = [
        run.options for run in runs if "data.valid" in run.options
    ]  # without damaged runs, whose options are unknown
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


def _tell_apart(settings: list[Setting]) -> None:
    """Make labels unique: add the values to a variant's name, or the path of a run."""
    for doubled in {
        setting.label for setting in settings if sum(other.label == setting.label for other in settings) > 1
    }:
        for setting in (setting for setting in settings if setting.label == doubled):
            told = ", ".join(
                f"{short_name(name, setting.varied)} = {value_text(v)}" for name, v in setting.varied.items()
            )
            setting.label = (
                f"{setting.variant}, {told}"
                if setting.variant and told
                else f"{setting.label} ({setting.runs[0].path})"
            )


def _order(setting: Setting) -> tuple[Any, ...]:
    """Sort key: numbers by value, then texts alphabetically."""
    values = setting.varied.values()
    return tuple((0, value, "") if _is_number(value) else (1, 0, str(value)) for value in values)


def _baseline(settings: list[Setting], wanted: Any) -> Setting | None:
    if isinstance(wanted, dict) and wanted:
        for setting in settings:
            options = setting.runs[0].options | setting.varied | {"variant": setting.variant}
            if all(_plain(options.get(name)) == _plain(value) for name, value in wanted.items()):
                return setting
    if isinstance(wanted, str):
        for setting in settings:
            if wanted in (setting.label, setting.variant, *(run.trial for run in setting.runs)):
                return setting
    return None


def short_name(name: str, names: Iterable[str]) -> str:
    """The last part of an option's name, if no other of the names ends the same."""
    last = name.rpartition(".")[2]
    return name if any(other != name and other.rpartition(".")[2] == last for other in names) else last


def _plain(value: Any) -> Any:
    return json.dumps(value, default=str) if isinstance(value, list | dict) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _existing(path: Path) -> Path:
    for candidate in (path, "runs" / path):
        if os.path.isdir(candidate):
            return candidate
    raise FileMissingError(f"no folder {path}, nor {'runs' / path}; expected runs or sweeps, such as runs/NAME")
