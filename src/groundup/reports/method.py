"""How the runs of a study were made: method, cost, hardware and commands."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from groundup.display.units import count_text, flops_text, time_text, value_text
from groundup.record.metrics import finite
from groundup.record.read import Run
from groundup.reports.finding import listed
from groundup.reports.settings import Study, short_name
from groundup.system.command import command

Pairs = list[tuple[str, str]]
_MOST_OPTIONS, _MOST_VALUES, _MOST_VARIANTS = 8, 12, 20


def method(study: Study) -> Pairs:
    """The declarations of the plan, then the options that the runs share or differ in."""
    intact = [run for run in study.runs if run.options]
    rows = [("recipe", str(study.plan["recipe"]))] if study.plan.get("recipe") else []
    rows += _declared(study) + _varied(study)
    if not intact:
        return rows
    seeds = sorted({run.seed for run in intact})
    rows.append(("seeds", ", ".join(map(str, seeds)) if len(seeds) <= _MOST_VALUES else f"{len(seeds)}"))

    def common(name: str) -> str:
        return _common([_from_here(run.options.get(name), study) for run in intact])

    parameters = [value for run in intact if (value := run.figures.get("parameters"))]
    many = [count_text(value) for value in (min(parameters), max(parameters))] if parameters else []
    size = f"{' to '.join(dict.fromkeys(many))} parameters: " if many else ""
    rows.append((
        "model",
        f"{size}{common('model.num_layers')} layers, d_model {common('model.d_model')}, {common('model.num_heads')} "
        f"heads, {common('model.ffn')}, norm {common('model.norm')}, position {common('model.position')}, "
        f"vocabulary {common('model.vocab_size')}",
    ))  # fmt: skip
    if any(run.parent for run in intact):
        begun = _common([_from_here(run.parent, study) or "their seed" for run in intact])
        rows.append(("weights", f"begin with those of {begun}"))
    rows.append((
        "step",
        f"{common('data.batch_size')} x {common('model.context_length')} tokens, {common('optim.optimizer')}, peak "
        f"learning rate {common('optim.max_learning_rate')}, {common('optim.schedule')} schedule, "
        f"{common('train.precision')}",
    ))  # fmt: skip
    if any(run.options.get("train.max_minutes") for run in intact) and common("train.finish_schedule") == "true":
        shares = {run.options.get("optim.warmup_iters", 0) / run.options.get("train.max_iters", 1) for run in intact}
        warmup = listed((f"{share:.0%}" for share in sorted(shares)), "or")
        minutes = common("train.max_minutes")
        rows.append(("length", f"{minutes} minutes of wall-clock time, of which warm-up takes {warmup}"))
    elif any(run.options.get("train.minutes") for run in intact):
        rows.append(("length", f"{common('train.minutes')} minutes of wall-clock time, in which the schedule ends"))
    else:
        rows.append(("length", f"{common('train.max_iters')} steps, of which warm-up {common('optim.warmup_iters')}"))
    if any(run.options.get("data.train") for run in intact):
        rows.append(("data", f"{common('data.train')}; validation {common('data.valid') or 'none'}"))
    return rows


def _declared(study: Study) -> Pairs:
    """Budget, rules, early stopping and variants of the plan."""
    rows, found = [], {key: value for key, value in study.plan.items() if isinstance(value, dict)}
    if budget := found.get("budget"):
        amount, fixed = finite(budget.get("amount")), budget.get("fixed")
        told = "?" if amount is None else f"{amount:g}" if fixed == "minutes" else count_text(amount)
        rows.append(("held fixed", f"{told} {fixed}"))
    for key in ("rules", "stop"):
        if table := found.get(key):
            told = "; ".join(f"{short_name(name, table)} = {value_text(value)}" for name, value in table.items())
            rows.append((key, told))
    for name, table in list(found.get("variants", {}).items())[:_MOST_VARIANTS]:
        if isinstance(table, dict):
            options = (f"{short_name(o, table)} = {value_text(_from_here(v, study))}" for o, v in table.items())
            rows.append((name, ", ".join(options) or "nothing changed"))
    return rows


def _varied(study: Study) -> Pairs:
    """The varied options with their values."""
    rows = []
    names = list(dict.fromkeys(name for setting in study.settings for name in setting.varied))
    for name in names[:_MOST_OPTIONS]:
        values = dict.fromkeys(
            value_text(value) or '""'
            for setting in study.settings
            if (value := setting.varied.get(name, setting.runs[0].options.get(name))) is not None
        )
        more = f", … ({len(values)} values)" if len(values) > _MOST_VALUES else ""
        rows.append((short_name(name, names), ", ".join(list(values)[:_MOST_VALUES]) + more))
    return rows


def _common(values: Iterable[Any]) -> str:
    """The value that all runs share, or the few or the range that they have."""
    values = list(dict.fromkeys(values))
    if len(values) <= 3:
        return listed(("?" if value is None else value_text(value) for value in values), "or")
    numbers = [value for value in values if isinstance(value, int | float)]
    return f"{value_text(min(numbers))} to {value_text(max(numbers))}" if len(numbers) == len(values) else "varied"


def _from_here(value: Any, study: Study) -> Any:
    """A path relative to the sweep's parent folder or the working directory, without this machine's folders."""
    if not (isinstance(value, str) and os.path.isabs(value)):
        return value
    for folder in ([study.folder.resolve().parent] if study.folder else []) + [Path.cwd()]:
        if Path(value).is_relative_to(folder):
            return str(Path(value).relative_to(folder))
    return value


def cost(runs: Sequence[Run], settings: int) -> Pairs:
    """Total cost of runs."""

    def total(figure: str) -> float:
        return sum(run.figures.get(figure) or 0 for run in runs)

    rows = [("runs", f"{len(runs):,} ({settings:,} setting{'s' * (settings != 1)})")]
    rows.append(("tokens", count_text(total("tokens"))))
    if total("flops"):
        rows.append(("computation", flops_text(total("flops"))))
    rows.append(("time", f"{time_text(total('seconds'))}, summed over all runs"))
    return rows


def machines(study: Study) -> Pairs:
    """Hardware, system, versions and commit of the runs, each with its number of runs if they differ."""
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
    return f"commit {str(git.get('commit'))[:12]}" + (", with uncommitted changes" if git.get("modified") else "")


def commands_of(study: Study) -> list[str]:
    """The commands that make a study's runs again."""
    if study.folder is not None:
        plan = study.plan.get("file") or f"{study.plan.get('name') or study.name}.toml"
        preset = ["--preset", str(study.plan["preset"])] if study.plan.get("preset") else []
        return [command("sweep", Path(str(plan)), *preset, *(["--budget", study.budget] if study.budget else []))]
    shown = [run for run in study.runs if run.options][:3]
    again = [command("train", run.path / "config.toml", f"--name={run.name}-again") for run in shown]
    if len(study.runs) > len(shown):
        again.append(f"# likewise for the other {len(study.runs) - len(shown)} runs")
    return again


def report_command(paths: Iterable[str | Path], out: Path) -> str:
    """The command that makes the report again."""
    return command("report", *map(Path, paths), "--out", out)
