"""How the runs of a study were made, as names and values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from groundup.display.units import count_text
from groundup.record.read import finite
from groundup.reports.finding import listed
from groundup.reports.settings import Study, short_name, value_text

_MOST_OPTIONS, _MOST_VALUES, _MOST_VARIANTS = 8, 12, 20


def method(study: Study) -> list[tuple[str, str]]:
    """Names and values: the plan's declarations, then what its runs have in common or differ in."""
    intact = [run for run in study.runs if run.options]
    rows: list[tuple[str, str]] = []
    if study.plan.get("recipe"):
        rows.append(("recipe", str(study.plan["recipe"])))
    rows += _declared(study)
    names = list(dict.fromkeys(name for cell in study.cells for name in cell.varied))
    for name in names[:_MOST_OPTIONS]:
        values = dict.fromkeys(
            value_text(value) or '""'
            for cell in study.cells
            if (value := cell.varied.get(name, cell.runs[0].options.get(name))) is not None
        )
        more = f", … ({len(values)} values)" if len(values) > _MOST_VALUES else ""
        shown = ", ".join(list(values)[:_MOST_VALUES]) + more
        rows.append((short_name(name, names), shown))
    if not intact:
        return rows
    seeds = sorted({run.seed for run in intact})
    rows.append(("seeds", ", ".join(map(str, seeds)) if len(seeds) <= _MOST_VALUES else f"{len(seeds)}"))

    def common(name: str) -> Any:
        values = list(dict.fromkeys(_from_here(run.options.get(name), study) for run in intact))
        if len(values) == 1:
            return values[0]
        if len(values) <= 3:
            return listed((_text(value) for value in values), "or")
        numbers = [value for value in values if isinstance(value, int | float)]
        return f"{value_text(min(numbers))} to {value_text(max(numbers))}" if len(numbers) == len(values) else "varied"

    parameters = [value for run in intact if (value := run.figures.get("parameters"))]
    many = [count_text(value) for value in (min(parameters), max(parameters))] if parameters else []
    size = f"{' to '.join(dict.fromkeys(many))} parameters: " if many else ""
    rows.append((
        "model",
        f"{size}{common('model.num_layers')} layers, d_model {common('model.d_model')}, {common('model.num_heads')} "
        f"heads, {common('model.ffn')}, norm {common('model.norm')}, position {common('model.position')}, "
        f"vocabulary {common('model.vocab_size')}",
    ))  # fmt: skip
    rows.append((
        "step",
        f"{common('data.batch_size')} x {common('model.context_length')} tokens, {common('optim.optimizer')}, peak "
        f"rate {_text(common('optim.max_learning_rate'))}, {common('optim.schedule')} schedule, "
        f"{common('train.precision')}",
    ))  # fmt: skip
    minutes = common("train.max_minutes")
    if minutes and common("train.finish_schedule") is True:
        shares = {run.options.get("optim.warmup_iters", 0) / run.options.get("train.max_iters", 1) for run in intact}
        warmup = listed((f"{share:.0%}" for share in sorted(shares)), "or")
        rows.append(("length", f"{_text(minutes)} minutes of the clock, of which the warm-up takes {warmup}"))
    else:
        rows.append(("length", f"{common('train.max_iters')} steps, of which warm-up {common('optim.warmup_iters')}"))
    if common("data.train"):
        rows.append(("data", f"{common('data.train')}; validation {common('data.valid') or 'none'}"))
    return [(name, str(text)) for name, text in rows]


def _declared(study: Study) -> list[tuple[str, str]]:
    """What the plan holds fixed, lets follow, and changes by name."""
    rows, found = [], {key: value for key, value in study.plan.items() if isinstance(value, dict)}
    if budget := found.get("budget"):
        amount, fixed = finite(budget.get("amount")), budget.get("fixed")
        told = "?" if amount is None else f"{amount:g}" if fixed == "minutes" else count_text(amount)
        rows.append(("held fixed", f"{told} {fixed}"))
    for key in ("rules", "stop"):
        if table := found.get(key):
            rows.append(
                (key, "; ".join(f"{short_name(name, table)} = {_text(value)}" for name, value in table.items()))
            )
    for name, table in list(found.get("variants", {}).items())[:_MOST_VARIANTS]:
        if isinstance(table, dict):
            options = (f"{short_name(o, table)} = {_text(_from_here(value, study))}" for o, value in table.items())
            rows.append((name, ", ".join(options) or "nothing changed"))
    return rows


def _from_here(value: Any, study: Study) -> Any:
    """A path as it looks from the folder of the sweeps, or from here: whoever reads has another machine."""
    if not (isinstance(value, str) and os.path.isabs(value)):
        return value
    for folder in ([study.folder.resolve().parent] if study.folder else []) + [Path.cwd()]:
        if Path(value).is_relative_to(folder):
            return str(Path(value).relative_to(folder))
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else value_text(value)
