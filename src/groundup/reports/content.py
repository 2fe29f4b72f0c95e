"""Content of a report as plain values, shared by the page and the Markdown file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from groundup.display.section import Section
from groundup.display.units import count_text, flops_text, time_text, value_text
from groundup.record.read import MEASURES, UNITS, Run
from groundup.reports.finding import (
    direction,
    estimate_text,
    finding,
    listed,
    number,
    p_text,
    power_text,
)
from groundup.reports.method import Pairs, cost, machines, method
from groundup.reports.settings import Setting, Study, short_name
from groundup.reports.statistics import ALPHA, POWER, SEEDS_FOR_PAIRS, Difference
from groundup.reports.tokenizers import TokenizerChapter

UNSTABLE = "after the start, the loss rose more than 5 % above that of the untrained model"
_MOST_SAMPLES = 12
_MOST_SAMPLE_CHARACTERS = 1500
_LOSS = "val_loss"


@dataclass
class Row:
    """A setting in the table of results."""

    cells: list[str]
    keys: list[str]
    """Sort key of each cell: a number, a text, or empty for a missing value."""
    mark: str
    """baseline, best, diverged, or empty: the row's style."""


@dataclass
class Sample:
    """A text written by a model."""

    label: str
    sampling: str
    """Step, temperature, top-p and seed."""
    prompt: str
    text: str


@dataclass
class Content:
    """A chapter: one study."""

    name: str
    question: str
    finding: str
    method: Pairs
    header: list[str]
    rows: list[Row]
    note: str
    limits: list[str]
    samples: list[Sample]
    cost: Pairs
    machines: Pairs
    commands: list[str]
    published: Section | None
    """Published losses beside those of the study."""

    @property
    def results(self) -> Section:
        """The table of results."""
        return Section("results", tuple(self.header), [tuple(row.cells) for row in self.rows], self.note)


@dataclass(frozen=True)
class Preface:
    """Text by the author of several studies that are reported together."""

    about: str = ""
    limits: Sequence[str] = ()
    """What the studies together cannot show."""
    command: str = ""
    """The command that makes everything again; with ``--only NAME``, one chapter."""


@dataclass(frozen=True)
class Front:
    """The front page of a report."""

    title: str
    preface: Preface
    findings: Pairs
    """Name and finding of each chapter."""
    cost: Pairs


def content(study: Study, commands: Sequence[str]) -> Content:
    """The chapter of a study.

    Args:
        commands: that make its runs and the report again.
    """
    header, rows = _table(study)
    return Content(
        name=study.name,
        question=study.question,
        finding=finding(study),
        method=method(study),
        header=header,
        rows=rows,
        note=_note(study),
        limits=_limits(study),
        samples=_samples(study),
        cost=cost(study.runs, len(study.settings)),
        machines=machines(study),
        commands=list(commands),
        published=published_table(study),
    )


def front(
    title: str,
    preface: Preface,
    studies: Sequence[Study],
    contents: Sequence[Content],
    tokenizers: Sequence[TokenizerChapter],
) -> Front:
    """The front page of a report with these chapters."""
    runs = [run for study in studies for run in study.runs]
    findings = [(c.name, c.finding) for c in contents] + [(c.name, c.finding) for c in tokenizers]
    return Front(title, preface, findings, cost(runs, sum(len(study.settings) for study in studies)))


def reference_of(study: Study) -> Setting | None:
    """The setting that others are compared with: the baseline, or the best if there is none or a number is varied."""
    if study.baseline is not None and not study.axis:
        return study.baseline if study.baseline.values(study.measure) else None
    return study.ranked[0][0] if study.ranked else None


def _table(study: Study) -> tuple[list[str], list[Row]]:
    reference, measure = reference_of(study), study.measure
    differences = study.differences(reference) if reference else {}
    others = [name for name in MEASURES if name != measure and any(s.values(name) for s in study.settings)]
    is_baseline = reference is study.baseline and not study.axis
    against = ["difference to the baseline" if is_baseline else "difference to the lowest"]
    header = [_name_column(study), "runs", MEASURES[measure], *(against if len(study.settings) > 1 else [])]
    header += [*(MEASURES[other] for other in others), "steps", "tokens", "FLOPs", "time"]
    best = study.ranked[0][0] if study.ranked else None
    rows = []
    for setting in study.settings:
        value = setting.estimate(measure)
        name = value_text(setting.varied[study.axis]) if study.axis else setting.label
        row = [(name, str(setting.varied[study.axis]) if study.axis else name)]
        row += [(str(len(setting.runs)),) * 2, (_end(setting, measure), repr(value.mean) if value else "")]
        if len(study.settings) > 1:
            found = differences.get(setting.label)
            told = _difference(setting, reference, found, measure) if reference is not None else ""
            row.append((told, repr(found[0].mean) if found else ""))
        for other in others:
            mean = setting.estimate(other)
            row.append((estimate_text(mean), repr(mean.mean)) if mean else ("", ""))
        for figure, as_text in (
            ("steps", "{:,.0f}".format), ("tokens", count_text), ("flops", flops_text), ("seconds", time_text),
        ):  # fmt: skip
            row.append(_mean(setting.runs, figure, as_text))
        mark = "baseline" if setting is study.baseline else "best" if setting is best else ""
        cells, keys = zip(*row, strict=True)
        rows.append(Row(list(cells), list(keys), "diverged" if setting.diverged else mark))
    return header, rows


def _name_column(study: Study) -> str:
    return short_name(study.axis, [study.axis]) if study.axis else "setting"


def _end(setting: Setting, measure: str) -> str:
    """The estimate of a measure, with the number of runs that diverged or were unstable."""
    value = setting.estimate(measure)
    if value is None:
        return _ended(setting)
    ends = [text for text in (_ended(setting) if setting.diverged else "", unstable_text(setting)) if text]
    return f"{estimate_text(value)} ({', '.join(ends)})" if ends else estimate_text(value)


def _difference(setting: Setting, reference: Setting, found: tuple[Difference, float] | None, measure: str) -> str:
    if setting is reference:
        return "reference"
    if found is not None:
        difference, p = found
        interval = f"{difference.mean:+.4f} ({difference.low:+.4f} to {difference.high:+.4f}), {p_text(p)}"
        return (
            f"{direction(difference)}: {interval}"
            if p < ALPHA
            else f"not significant: {interval}; {power_text(difference)}"
        )
    value, theirs = setting.estimate(measure), reference.estimate(measure)
    if value is None or theirs is None or setting.diverged:
        return ""
    return f"{value.mean - theirs.mean:+.4f}, no test"


def _ended(setting: Setting) -> str:
    """How runs without a result ended: ``2 of 3 diverged``."""
    count = Counter(run.status for run in setting.runs if run.status != "finished")
    if len(setting.runs) == 1:
        return next(iter(count), "no validation")
    return ", ".join(f"{n} of {len(setting.runs)} {status}" for status, n in count.items()) or "no validation"


def unstable_text(setting: Setting) -> str:
    """``2 of 3 unstable``, counting runs that did not diverge; empty if there are none."""
    count = setting.unstable - setting.diverged
    return "" if not count else "unstable" if count == len(setting.runs) else f"{count} of {len(setting.runs)} unstable"


def _mean(runs: Iterable[Run], figure: str, as_text: Callable[[float], str]) -> tuple[str, str]:
    values = [value for run in runs if (value := run.figures.get(figure)) is not None]
    mean = sum(values) / len(values) if values else 0.0
    return (as_text(mean), repr(mean)) if values else ("", "")


def _note(study: Study) -> str:
    unit = f", in {UNITS[study.measure]}" if study.measure != "val_bpb" else ""
    text = f"Final {MEASURES[study.measure]}{unit}"
    if any(len(setting.values(study.measure)) > 1 for setting in study.settings):
        text += "; ± is half of the 95 % confidence interval of the mean over seeds (Student's t)"
    if study.measure == "val_bpb":
        text += "; unlike losses, bits per byte compare between tokenizers and texts"
    if any(setting.unstable > setting.diverged for setting in study.settings):
        text += f"; unstable: {UNSTABLE}"
    reference = reference_of(study)
    tests = {d.test for d, _ in study.differences(reference).values()} if reference else set()
    if tests:
        text += (
            f". Differences: {listed(sorted(tests))}, p with Holm's correction, statistically significant at p < "
            f"{ALPHA:g}. Runs of equal seeds are paired from {SEEDS_FOR_PAIRS} seeds on"
        )
    return text + "."


def _limits(study: Study) -> list[str]:
    """What the runs cannot show."""
    found, measure = [], study.measure
    counts = [len(setting.values(measure)) for setting in study.settings if setting.values(measure)]
    if counts and min(counts) == 1:
        single = counts.count(1)
        some = f"{single} of {len(counts)} settings {'has' if single == 1 else 'have'}"
        which = "Every setting has" if max(counts) == 1 else some
        found.append(f"{which} one seed: without a confidence interval or a test, a small difference may be noise.")
    reference = reference_of(study)
    differences = [d for d, _ in study.differences(reference).values()] if reference else []
    if differences:
        effects = sorted(difference.smallest_effect for difference in differences)
        corrected = f", corrected for {len(effects)} comparisons," if len(effects) > 1 else ""
        span = number(effects[0]) if len(effects) == 1 else f"{number(effects[0])} to {number(effects[-1])}"
        found.append(
            f"Differences smaller than {span} may have been missed: a true difference of that size is significant at "
            f"p < {ALPHA:g}{corrected} in {100 * POWER:.0f} % of such experiments."
        )
        if study.baseline is None or study.axis:
            found.append("The lowest setting is chosen and tested with the same runs, so its lead is biased upwards.")
    statuses = Counter(run.status for run in study.runs)
    for status in ("unfinished", "stopped", "crashed", "broken"):
        if count := statuses[status]:
            found.append(f"{count} {'run is' if count == 1 else 'runs are'} {status} and in no mean.")
    if study.damage:
        found.append(f"{study.damage}.")
    told = [run for run in study.runs if run.status in ("broken", "crashed") or run.left_out]
    found += [f"{run.name}: {run.problem}." for run in told][:10]
    devices = {run.environment.get("device_name") for run in study.runs} - {None}
    if len(devices) > 1:
        found.append("The runs were made on different hardware: their times do not compare.")
    return found


def _samples(study: Study) -> list[Sample]:
    order = [setting for setting, _ in study.ranked] + [s for s in study.settings if s.all_diverged]
    if study.baseline in order:
        order.remove(study.baseline)
        order.insert(0, study.baseline)
    found = []
    for setting in order[:_MOST_SAMPLES]:
        run = next((run for run in setting.runs if run.samples), None)
        if run is None:
            continue
        line = run.samples[-1]
        sampling = [f"step {line['step']:,}"]
        for key, name in (("temperature", "temperature"), ("top_p", "top-p"), ("seed", "seed")):
            if key in line:
                sampling.append(f"{name} {line[key]}")
        text = line["text"]
        cut = text[:_MOST_SAMPLE_CHARACTERS] + ("…" if len(text) > _MOST_SAMPLE_CHARACTERS else "")
        found.append(Sample(setting.label, ", ".join(sampling), line["prompt"], cut))
    return found


def published_table(study: Study) -> Section | None:
    """Published losses beside the study's losses of the same setting or value; None if the plan has none.

    If the baseline is among them, differences to it follow. They compare between models of different sizes, where
    losses do not.
    """
    published = study.plan.get("published")
    losses = published.get("losses") if isinstance(published, dict) else None
    if not isinstance(published, dict) or not isinstance(losses, dict) or not losses:
        return None
    ours = {name: setting for name in losses if (setting := _published_as(study, name)) is not None}
    columns: dict[str, list[str]] = {
        _name_column(study): list(losses),
        "published": [loss if isinstance(loss, str) else f"{loss:.3f}" for loss in losses.values()],
    }
    means = {name: value.mean for name, setting in ours.items() if (value := setting.estimate(_LOSS)) is not None}
    if ours:
        gone = {name for name, setting in ours.items() if setting.all_diverged}
        columns["ours"] = [
            "diverged" if name in gone else f"{means[name]:.3f}" if name in means else "" for name in losses
        ]
    base = next((name for name, setting in ours.items() if setting is study.baseline), None)
    # Between tokenizers or texts neither losses nor their differences compare.
    if base is not None and len(ours) > 1 and not study.axis and study.measure == _LOSS:
        columns["published, less its baseline"] = [_less(loss, losses[base]) for loss in losses.values()]
        columns["ours, less its baseline"] = [_less(means.get(name), means.get(base)) for name in losses]
    note = f"Validation loss in nats per token. {published.get('source', '')}".rstrip(". ") + "."
    return Section("published", tuple(columns), list(zip(*columns.values(), strict=True)), note)


def _published_as(study: Study, name: str) -> Setting | None:
    """The study's setting with a published name; along an axis, with its value."""
    try:
        value = float(name)
    except ValueError:
        value = None
    for setting in study.settings:
        if name == setting.label or (study.axis and value == float(setting.varied[study.axis])):
            return setting
    return None


def _less(loss: Any, base: Any) -> str:
    numbers = isinstance(loss, int | float) and isinstance(base, int | float)
    return f"{loss - base:+.3f}" if numbers else ""
