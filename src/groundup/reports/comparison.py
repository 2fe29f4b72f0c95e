"""Comparison of two runs: options, final figures, curves, and a test of the losses over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groundup.display.section import Section
from groundup.display.units import count_text, flops_text, time_text, value_text
from groundup.errors import DataError
from groundup.record.read import MEASURES, Run
from groundup.record.sweep import is_sweep
from groundup.reports.content import Preface, content, front
from groundup.reports.curves import lines_of
from groundup.reports.finding import finding
from groundup.reports.method import commands_of, report_command
from groundup.reports.page.write import render_page
from groundup.reports.settings import Setting, Study, load_studies, measure_for
from groundup.system.files import write_atomically

_LINES_OF_A_CURVE = 8
_FIGURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    *((MEASURES[measure], measure, "{:.4f}".format) for measure in MEASURES),
    ("lowest validation loss", "best_val_loss", "{:.4f}".format),
    ("parameters", "parameters", "{:,.0f}".format),
    ("steps", "steps", "{:,.0f}".format),
    ("tokens", "tokens", count_text),
    ("FLOPs", "flops", flops_text),
    ("time", "seconds", time_text),
)


def compare_runs(one: str | Path, other: str | Path) -> Study:
    """Two runs as a study of two settings, each with the other seeds of its setting if it belongs to a sweep.

    A folder of several runs is one setting if they differ in their seeds only.

    Raises:
        FileMissingError: the run does not exist.
        DataError: a folder holds no run, or runs of several settings.
    """
    first, second = _setting(one), _setting(other)
    if first.label == second.label:
        first.label, second.label = str(one), str(other)
    study = Study(f"{first.label} and {second.label}", [first, second], baseline=first)
    study.measure = measure_for(study.runs)
    return study


def _setting(target: str | Path) -> Setting:
    studies = load_studies([target])
    runs = [run for study in studies for run in study.runs]
    if len(runs) == 1:
        run = runs[0]
        label = run.name
        if is_sweep(run.path.parent):
            for setting in (setting for study in load_studies([run.path.parent]) for setting in study.settings):
                if any(sibling.path.name == run.path.name for sibling in setting.runs):
                    # The named run comes first: its figures and curves are shown.
                    label, runs = (
                        setting.label,
                        sorted(setting.runs, key=lambda other: other.path.name != run.path.name),
                    )
        return Setting(label, {}, "", runs)
    settings = [setting.label for study in studies for setting in study.settings]
    if len(settings) > 1:
        shown = ", ".join(settings[:3]) + (", …" if len(settings) > 3 else "")
        raise DataError(f"{target} holds runs of {len(settings)} settings ({shown}); name a run, or the seeds of one")
    return Setting(Path(target).name, {}, "", runs)


def comparison_sections(study: Study) -> list[Section]:
    """The comparison as tables; the note of the last one is the finding."""
    one, other = (setting.runs[0] for setting in study.settings)
    names = tuple(setting.label for setting in study.settings)
    sections = [_options(one, other, names), _figures(one, other, names)]
    curves = _curve_section(study, one, other, names)
    if curves is not None:
        sections.append(curves)
    by_seed = [sorted(setting.values(study.measure).items()) for setting in study.settings]
    rows = [
        (setting.label, str(len(setting.runs)), ", ".join(f"{value:.4f}" for _, value in values))
        for setting, values in zip(study.settings, by_seed, strict=True)
    ]
    sections.append(Section(f"{MEASURES[study.measure]} by seed", ("", "seeds", "final"), rows, finding(study)))
    return sections


def _options(one: Run, other: Run, names: tuple[str, ...]) -> Section:
    rows = [(option, *values) for option, values in differing_options([one.options, other.options]).items()]
    note = "" if rows else "The options are the same."
    return Section("options that differ", ("", *names) if rows else (), rows, note)


def differing_options(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The options, by dotted name, that have several values among runs, and the text of each run's value."""
    missing, found = object(), {}
    for option in dict.fromkeys(option for options in runs for option in options):
        values = [options.get(option, missing) for options in runs]
        if option not in ("name", "runs_dir") and any(value != values[0] for value in values):
            found[option] = ["not set" if value is missing else value_text(value) or '""' for value in values]
    return found


def _figures(one: Run, other: Run, names: tuple[str, ...]) -> Section:
    rows: list[tuple[str, ...]] = [("status", one.status, other.status, "")]
    for name, figure, text in _FIGURES:
        a, b = one.figures.get(figure), other.figures.get(figure)
        if a is not None or b is not None:
            rows.append((name, *("" if v is None else text(v) for v in (a, b)), _between(figure, a, b)))
    devices = [str(run.environment.get("device_name", "")) for run in (one, other)]
    rows.append(("device", *devices, "" if devices[0] == devices[1] else "different"))
    return Section("final figures", ("", *names, "second to first"), rows)


def _between(figure: str, a: float | None, b: float | None) -> str:
    if a is None or b is None:
        return ""
    if "loss" in figure or figure == "val_bpb":
        return f"{b - a:+.4f}"
    return f"{b / a:.3g} x" if a else ""


def _curve_section(study: Study, one: Run, other: Run, names: tuple[str, ...]) -> Section | None:
    """Losses at up to eight of the steps at which both were evaluated."""
    measure = study.measure if all(study.measure in run.curves for run in (one, other)) else "train_loss"
    if not all(measure in run.curves for run in (one, other)):
        return None
    a, b = one.curves[measure], other.curves[measure]
    steps, at_a, at_b = np.intersect1d(a.steps, b.steps, return_indices=True)
    if len(steps) == 0:
        return None
    chosen = np.unique(np.linspace(0, len(steps) - 1, _LINES_OF_A_CURVE).round().astype(int))
    rows = []
    for place in chosen:
        first, second = a.values[at_a[place]], b.values[at_b[place]]
        rows.append((f"{steps[place]:,.0f}", f"{first:.4f}", f"{second:.4f}", f"{second - first:+.4f}"))
    return Section(f"{MEASURES[measure]} during training", ("step", *names, "second - first"), rows)


def write_comparison(study: Study, file: Path, targets: tuple[str, str]) -> None:
    """Write the comparison as an HTML page.

    Raises:
        MissingExtraError: a package of the extra "report" is not installed.
    """
    contents = [content(study, [*commands_of(study), report_command(targets, file.parent)])]
    first = front(study.name, Preface(), [study], contents, [])
    write_atomically(file, render_page(first, [study], contents, [lines_of(study)]))
