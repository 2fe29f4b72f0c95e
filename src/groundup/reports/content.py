"""What a report says of a study, as plain values: the page and the Markdown file say the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.display.section import Section
from groundup.display.units import count_text, flops_text, time_text
from groundup.record.read import MEASURES, UNITS, Run
from groundup.reports.finding import difference_text, estimate_text, finding, listed, number, verdict
from groundup.reports.method import method
from groundup.reports.published import published_table
from groundup.reports.settings import Cell, Study, short_name, value_text
from groundup.reports.statistics import ALPHA, POWER, SEEDS_FOR_PAIRS
from groundup.system.command import command

UNSTABLE = "the loss was once, after the start, more than 5 % above that of the untrained model"
_MOST_SAMPLES = 12
_MOST_SAMPLE_CHARACTERS = 1500


@dataclass
class Row:
    """A cell in the table."""

    cells: list[str]
    keys: list[str]
    """What each is sorted by: a number, a text, or nothing where there is none."""
    mark: str
    """baseline, best, diverged, or nothing: how the row is set off."""


@dataclass
class Sample:
    """A text with the settings that made it."""

    label: str
    settings: str
    prompt: str
    text: str


@dataclass
class Content:
    """A study in words."""

    name: str
    question: str
    finding: str
    method: list[tuple[str, str]]
    header: list[str]
    rows: list[Row]
    note: str
    limits: list[str]
    samples: list[Sample]
    cost: list[tuple[str, str]]
    ground: list[tuple[str, str]]
    """Hardware and versions."""
    commands: list[str]
    published: Section | None
    """Somebody else's figures beside ours."""


def content(study: Study, commands: Sequence[str]) -> Content:
    """Everything a report says of a study.

    Args:
        commands: that make its runs and the report.
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
        cost=cost(study.runs, len(study.cells)),
        ground=_ground(study),
        commands=list(commands),
        published=published_table(study),
    )


def reference_cell(study: Study) -> Cell | None:
    """What the others are compared with: the baseline; or the best cell, where none was named or a number is varied."""
    if study.baseline is not None and not study.axis:
        return study.baseline if study.baseline.values(study.measure) else None
    return study.ranked[0][0] if study.ranked else None


def _table(study: Study) -> tuple[list[str], list[Row]]:
    reference, measure = reference_cell(study), study.measure
    differences = study.differences(reference) if reference else {}
    others = [name for name in MEASURES if name != measure and any(cell.values(name) for cell in study.cells)]
    name = short_name(study.axis, [study.axis]) if study.axis else "cell"
    against = f"against {'the baseline' if reference is study.baseline and not study.axis else 'the lowest'}"
    header = [name, "runs", MEASURES[measure], *([against] if len(study.cells) > 1 else [])]
    header += [*(MEASURES[other] for other in others), "steps", "tokens", "FLOPs", "time"]
    ranked = study.ranked
    best = ranked[0][0] if ranked else None
    rows = []
    for cell in study.cells:
        value = cell.estimate(measure)
        text = estimate_text(value) if value else _ended(cell)
        ends = [_ended(cell)] if value and cell.diverged else []
        ends += [unstable_text(cell)] if value and unstable_text(cell) else []
        told = f"{text} ({', '.join(ends)})" if ends else text
        name = _cell_name(study, cell)
        row = [(name, str(cell.varied[study.axis]) if study.axis else name), (str(len(cell.runs)), str(len(cell.runs)))]
        row.append((told, repr(value.mean) if value else ""))
        if len(study.cells) > 1:
            by = differences[cell.label][0].mean if cell.label in differences else None
            row.append((_against(cell, reference, differences, measure), "" if by is None else repr(by)))
        for other in others:
            mean = cell.estimate(other)
            row.append((estimate_text(mean), repr(mean.mean)) if mean else ("", ""))
        for figure, as_text in (
            ("steps", "{:,.0f}".format), ("tokens", count_text), ("flops", flops_text), ("seconds", time_text),
        ):  # fmt: skip
            row.append(_mean(cell.runs, figure, as_text))
        mark = "baseline" if cell is study.baseline else "best" if cell is best else ""
        cells, keys = zip(*row, strict=True)
        rows.append(Row(list(cells), list(keys), "diverged" if cell.diverged else mark))
    return header, rows


def _cell_name(study: Study, cell: Cell) -> str:
    return value_text(cell.varied[study.axis]) if study.axis else cell.label


def _against(cell: Cell, reference: Cell | None, differences: dict[str, Any], measure: str) -> str:
    if reference is None:
        return ""
    if cell is reference:
        return "it is this"
    if cell.label in differences:
        difference, p = differences[cell.label]
        told = f"{verdict(difference, p)}: {difference_text(difference, p)}"
        return told + (f"; {number(difference.smallest_effect)} would have shown" if p >= ALPHA else "")
    value, theirs = cell.estimate(measure), reference.estimate(measure)
    if value is None or theirs is None or cell.diverged:
        return ""
    return f"{value.mean - theirs.mean:+.4f}, no test"


def _ended(cell: Cell) -> str:
    """How runs without a result ended: ``2 diverged``."""
    count = Counter(run.status for run in cell.runs if run.status != "finished")
    if len(cell.runs) == 1:
        return next(iter(count), "no validation")
    return ", ".join(f"{number} of {len(cell.runs)} {status}" for status, number in count.items()) or "no validation"


def unstable_text(cell: Cell) -> str:
    """``2 of 3 unstable``, of runs that did not diverge; nothing where none is."""
    count = cell.unstable - cell.diverged
    return "" if not count else "unstable" if count == len(cell.runs) else f"{count} of {len(cell.runs)} unstable"


def _mean(runs: Iterable[Run], figure: str, as_text: Callable[[float], str]) -> tuple[str, str]:
    values = [value for run in runs if (value := run.figures.get(figure)) is not None]
    mean = sum(values) / len(values) if values else 0.0
    return (as_text(mean), repr(mean)) if values else ("", "")


def _note(study: Study) -> str:
    unit = f", in {UNITS[study.measure]}" if study.measure != "val_bpb" else ""
    text = f"{MEASURES[study.measure].capitalize()} at the end of a run{unit}"
    if any(len(cell.values(study.measure)) > 1 for cell in study.cells):
        text += "; ± is half of Student's 95 % interval of the mean over seeds"
    if study.measure == "val_bpb":
        text += "; losses of other tokenizers or texts do not compare, bits per byte do"
    if any(cell.unstable > cell.diverged for cell in study.cells):
        text += f"; unstable: {UNSTABLE}"
    reference = reference_cell(study)
    tests = {d.test for d, _ in study.differences(reference).values()} if reference else set()
    if tests:
        text += (
            f". Differences: {listed(sorted(tests))}, with p after Holm's correction; a difference is claimed below "
            f"p = {ALPHA:g} only. Runs of equal seeds are paired from {SEEDS_FOR_PAIRS} seeds on"
        )
    return text + "."


def _limits(study: Study) -> list[str]:
    """What these runs cannot show."""
    found, measure = [], study.measure
    counts = [len(cell.values(measure)) for cell in study.cells if cell.values(measure)]
    if counts and min(counts) == 1:
        which = "Every cell has" if max(counts) == 1 else f"{counts.count(1)} of {len(counts)} cells have"
        found.append(f"{which} one seed: without an interval or a test, a small difference may be the seed's.")
    reference = reference_cell(study)
    differences = [d for d, _ in study.differences(reference).values()] if reference else []
    if differences:
        effects = sorted(difference.smallest_effect for difference in differences)
        corrected = f", corrected for {len(effects)} comparisons," if len(effects) > 1 else ""
        span = number(effects[0]) if len(effects) == 1 else f"{number(effects[0])} to {number(effects[-1])}"
        found.append(
            f"Differences smaller than {span} could have gone unseen: so large a true difference shows at p < "
            f"{ALPHA:g}{corrected} in {100 * POWER:.0f} % of such experiments."
        )
        if study.baseline is None or study.axis:
            found.append("The lowest is chosen by the same runs that it is tested with: its lead is a little too good.")
    statuses = Counter(run.status for run in study.runs)
    for status in ("unfinished", "stopped", "crashed", "broken"):
        if statuses[status]:
            count = statuses[status]
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
    order = [cell for cell, _ in study.ranked] + [cell for cell in study.cells if cell.all_diverged]
    if study.baseline in order:
        order.remove(study.baseline)
        order.insert(0, study.baseline)
    found = []
    for cell in order[:_MOST_SAMPLES]:
        run = next((run for run in cell.runs if run.samples), None)
        if run is None:
            continue
        line = run.samples[-1]
        settings = [f"step {_count(line.get('step'))}"]
        for key, name in (("temperature", "temperature"), ("top_p", "top-p"), ("seed", "seed")):
            if key in line:
                settings.append(f"{name} {line[key]}")
        text = str(line.get("text", ""))
        cut = text[:_MOST_SAMPLE_CHARACTERS] + ("…" if len(text) > _MOST_SAMPLE_CHARACTERS else "")
        found.append(Sample(cell.label, ", ".join(settings), str(line.get("prompt", "")), cut))
    return found


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def cost(runs: Sequence[Run], cells: int) -> list[tuple[str, str]]:
    """What runs took all together."""

    def total(figure: str) -> float:
        return sum(run.figures.get(figure) or 0 for run in runs)

    rows = [("runs", f"{len(runs):,} in {cells:,} cells")]
    rows.append(("tokens", count_text(total("tokens"))))
    if total("flops"):
        rows.append(("computation", flops_text(total("flops"))))
    rows.append(("time", f"{time_text(total('seconds'))} of all runs together"))
    return rows


def _ground(study: Study) -> list[tuple[str, str]]:
    seen: dict[str, Counter[str]] = {}
    for run in study.runs:
        environment = run.environment
        if not environment:
            continue
        device = f"{environment.get('device_name') or environment.get('cpu')} ({environment.get('device')}"
        threads = environment.get("threads")
        device += f", {threads} thread{'s' * (threads != 1)})" if environment.get("device") == "cpu" else ")"
        packages = environment.get("packages")
        versions = {name: environment[name] for name in ("groundup", "python") if environment.get(name)}
        versions |= packages if isinstance(packages, dict) else {}
        git = environment.get("git")
        for name, value in (
            ("hardware", device),
            ("system", str(environment.get("platform", ""))),
            ("versions", ", ".join(f"{package} {version}" for package, version in versions.items() if version)),
            ("source", _commit(git) if isinstance(git, dict) else ""),
        ):
            if value:
                seen.setdefault(name, Counter())[value] += 1
    return [
        (name, "; ".join(value if len(values) == 1 else f"{value} ({count} runs)" for value, count in values.items()))
        for name, values in seen.items()
    ]


def _commit(git: dict[str, Any]) -> str:
    return f"commit {str(git.get('commit'))[:12]}" + (
        ", with changes that are not in it" if git.get("modified") else ""
    )


def commands_of(study: Study) -> list[str]:
    """What to type to make a study's runs again."""
    if study.folder is not None:
        plan = study.plan.get("file") or f"{study.plan.get('name') or study.name}.toml"
        return [command("sweep", Path(str(plan)), *(["--budget", study.budget] if study.budget else []))]
    shown = [run for run in study.runs if run.options][:3]
    again = [command("train", run.path / "config.toml", f"--name={run.name}-again") for run in shown]
    if len(study.runs) > len(shown):
        again.append(f"# and so on for the other {len(study.runs) - len(shown)} runs")
    return again


def report_command(paths: Iterable[str | Path], out: Path) -> str:
    """What to type to make the report again."""
    return command("report", *map(Path, paths), "--out", out)


def as_json(value: Any) -> str:
    """JSON that may stand in a script element: no ``<`` ends it or opens a comment."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
