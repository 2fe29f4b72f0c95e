"""Terminal output, JSON and picture of a scaling law."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.text import Text

from groundup.display.console import print_section
from groundup.display.figure import new_figure, write_picture
from groundup.display.section import Section
from groundup.display.units import count_text, flops_text, time_text
from groundup.reports.scaling.answers import FAR, Answer, Family, Oracle, Range, as_json, seconds_per_token
from groundup.reports.scaling.law import DRAWS, Floats, Law, fit, interval
from groundup.reports.scaling.points import Points, read_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FEW = 9
_MOST_LEFT_OUT = 3
_DIGITS = 4
_ZERO = 1e-4
_GREY, _BLACK = "#9aa1ab", "#1c1f24"


def print_fit(
    console: Console,
    paths: Sequence[Path],
    *,
    curves: bool = False,
    flops: float | None = None,
    minutes: float | None = None,
    tokens: float | None = None,
    parameters: float | None = None,
    plot: Path | None = None,
    json_output: bool = False,
) -> None:
    """Fit a law to runs, and print it with the answers to what is asked.

    Raises:
        ConfigError, DataError, FileMissingError: see :func:`read_points` and :meth:`Oracle.answer`.
        MissingExtraError: matplotlib is not installed.
    """
    points = read_points(paths, curves=curves)
    law = fit(points.sizes, points.column("loss"), points.column("run").astype(np.int64))
    family = Family(points.runs)
    speed = seconds_per_token(points, family.flops()) if minutes is not None or _one_device(points) else None
    oracle = Oracle(law, points, family, speed)
    given = {"flops": flops, "minutes": minutes, "tokens": tokens, "parameters": parameters}
    answers = []
    if any(value is not None for value in given.values()):
        answers.append(oracle.answer(_asked(given), **given))
    elif oracle.falls:
        answers += _by_default(oracle)
    if plot is not None:
        _draw(law, points, oracle, plot)
    if json_output:
        print(json.dumps(_document(law, points, oracle, answers), indent=1))
        return
    print_section(console, *_law_section(law, points))
    if answers:
        print_section(console, *_answers_section(answers, oracle))
    for path, why in list(points.left_out.items())[:_MOST_LEFT_OUT]:
        console.print(Text(f"left out: {path}: {why}"), soft_wrap=True)
    if (more := len(points.left_out) - _MOST_LEFT_OUT) > 0:
        console.print(f"left out: {more} more; --json names them all")
    if plot is not None:
        console.print(Text(f"{plot} is written"), soft_wrap=True)


def _one_device(points: Points) -> bool:
    """Whether times can be given without being asked for: every run has measured its speed, on one device."""
    names = {run.environment.get("device_name") for run in points.runs}
    return len(names) == 1 and all(run.figures.get("tokens_per_second") for run in points.runs)


def _asked(given: dict[str, float | None]) -> str:
    texts = {
        "flops": lambda value: flops_text(value),
        "minutes": lambda value: time_text(60 * value),
        "tokens": lambda value: f"{_short(value)} tokens",
        "parameters": lambda value: f"{_short(value)} parameters",
    }
    return ", ".join(texts[name](value) for name, value in given.items() if value is not None)


def _by_default(oracle: Oracle) -> list[Answer]:
    """Answers where nothing was asked: budgets up to a hundred times the largest run's."""
    return [
        oracle.answer(flops_text(factor * oracle.largest), flops=factor * oracle.largest) for factor in (1, 10, 100)
    ]


def _law_section(law: Law, points: Points) -> Section:
    terms = {"N": "A / N^alpha", "D": "B / D^beta"}
    title = f"loss = E + {' + '.join(terms[term] for term in law.terms)}"
    about = {
        "E": "the floor, nats per token",
        "A": "of the parameters N, embeddings included",
        "alpha": "exponent of N",
        "B": "of the tokens D",
        "beta": "exponent of D",
    }
    if law.terms == ("D",):
        about["E"] = "the floor at this size, nats per token"
    if law.terms == ("N",):
        about["E"] = "the floor at these tokens, nats per token"
    rows = []
    for name, values in law.values().items():
        value, low, high = interval(values)
        rows.append((name, _number(value), f"{_number(low)} to {_number(high)}", about[name]))
    runs, count = len(points.runs), len(points.points)
    fitted = f"{runs} runs" if count == runs else f"{count:,} evaluations of {runs} runs"
    schedules = {run.options.get("optim.schedule") for run in points.runs}
    notes = [
        f"Fitted to {fitted}; typical error {law.residual:.2%} of the loss. Intervals are 95 %, by {DRAWS} fits with "
        "other weights of the runs (Bayesian bootstrap)."
    ]
    if law.terms == ("D",):
        notes.append(f"All runs have {points.column('parameters')[0]:,.0f} parameters, so N stays fixed.")
    if law.terms == ("N",):
        notes.append(f"All runs have {points.column('tokens')[0]:,.0f} tokens, so D stays fixed.")
    if unsure := law.unsure:
        axis = "/".join({"alpha": "sizes", "beta": "lengths"}[name] for name in unsure)
        notes.append(f"The runs hardly determine {' and '.join(unsure)}: add {axis} further apart, or more seeds.")
    if runs < _FEW:
        notes.append(f"With fewer than {_FEW} runs the intervals are too narrow.")
    if "constant" in schedules and len(schedules) > 1:
        notes.append("Some runs have a constant learning rate, and lose what a decay at the end would gain.")
    elif schedules == {"constant"}:
        notes.append("The learning rate was constant; a decay at the end lowers the loss.")
    if len({run.options.get("data.train") for run in points.runs}) > 1:
        notes.append("The runs differ in data.train; the law takes them for the same text.")
    return Section(title, ("", "fit", "95 % interval", ""), rows, " ".join(notes))


def _answers_section(answers: Sequence[Answer], oracle: Oracle) -> Section:
    header: tuple[str, ...]
    if len(answers) == 1:
        title, header, rows = answers[0].asked, ("", "best", "95 % interval"), _figures(answers[0])
    else:
        header = ("FLOPs", "parameters", "tokens", "loss", "time")
        title, rows = "the best model for 1, 10 and 100 times the FLOPs of the largest run", []
        for answer in answers:
            cells = {name: value + (f" ({reach})" if reach else "") for name, value, reach in _figures(answer)}
            rows.append(tuple(cells[name] for name in header))
    last = answers[-1]
    notes = [f"FLOPs are {oracle.flops.source}."]
    if oracle.speed is not None:
        notes.append(f"Time: {oracle.speed.source}.")
    if last.shape is not None:
        shape = ", ".join(f"{name} = {last.shape[name]}" for name in ("d_model", "num_layers", "num_heads"))
        of = "" if len(answers) == 1 else f" for {last.asked}"
        notes.append(f"Nearest model{of}: {shape} ({last.shape['parameters']:,} parameters).")
    if any(answer.at_edge for answer in answers):
        notes.append("The best size lies further from the runs than was looked for: they do not determine it.")
    if (far := max(answer.beyond for answer in answers)) > FAR:
        notes.append(
            f"{far:,.0f} times the FLOPs of the largest run: the interval is that of the fit, and says nothing about "
            "whether the law still holds there."
        )
    return Section(title, header, rows, " ".join(notes))


def _figures(answer: Answer) -> list[tuple[str, ...]]:
    """Name, value and interval of each figure; no interval where the figure was given."""

    def row(name: str, value: Range, text: Callable[[float], str]) -> tuple[str, ...]:
        reach = "" if np.isclose(value.low, value.high, rtol=1e-6) else f"{text(value.low)} to {text(value.high)}"
        return name, text(value.value), reach

    return [
        row("parameters", answer.parameters, _short),
        row("tokens", answer.tokens, _short),
        row("loss", answer.loss, lambda loss: f"{loss:.3f}"),
        ("FLOPs", flops_text(answer.flops), ""),
        ("time", "n/a" if answer.minutes is None else time_text(60 * answer.minutes), ""),
    ]


def _short(count: float) -> str:
    """A count as the command line reads it: 2.75M."""
    number, _, unit = count_text(count).partition(" ")
    return number + {"": "", "thousand": "K", "million": "M", "billion": "B", "trillion": "T"}[unit]


def _number(value: float) -> str:
    if 0 <= value < _ZERO:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 1000 and value < 1e7 else f"{value:.{_DIGITS}g}"


def _document(law: Law, points: Points, oracle: Oracle, answers: Sequence[Answer]) -> dict[str, Any]:
    return {
        "law": {name: Range(*interval(values))._asdict() for name, values in law.values().items()},
        "terms": list(law.terms),
        "residual": law.residual,
        "parameters_are": "all, with embedding and output matrix",
        "flops_are": oracle.flops.source,
        "time_is": None if oracle.speed is None else oracle.speed.source,
        "points": [
            {"run": str(points.runs[point.run].path), **{k: v for k, v in point._asdict().items() if k != "run"}}
            for point in points.points
        ],
        "left_out": points.left_out,
        "answers": [as_json(answer) for answer in answers],
    }


def _draw(law: Law, points: Points, oracle: Oracle, path: Path) -> None:
    """Loss against FLOPs: the points and the fitted curve of each size, and the loss of the best size."""
    figure = new_figure(7.2, 4.4, "the picture of a scaling law")
    axes: Axes = figure.subplots()
    from matplotlib import colormaps

    sizes, tokens, losses = points.column("parameters"), points.column("tokens"), points.column("loss")
    distinct = np.unique(sizes)
    flops = oracle.flops(sizes) * tokens
    by_size = len(distinct) <= 12 and "D" in law.terms
    for k, size in enumerate(distinct if by_size else []):
        mine = sizes == size
        colour = colormaps["viridis"](0.9 * k / max(1, len(distinct) - 1))
        axes.plot(flops[mine], losses[mine], "o", color=colour, markersize=4, label=f"{_short(size)} parameters")
        along = np.geomspace(tokens[mine].min() / 1.5, tokens[mine].max() * 3, 80)
        cost = oracle.flops(np.array([size]))[0] * along
        axes.plot(cost, _of_first(law, np.full(80, size), along), color=colour, linewidth=1)
    if not by_size:
        axes.plot(flops, losses, "o", color=_BLACK, markersize=4, label="runs")
    if law.terms == ("N", "D") and oracle.falls:
        budgets = np.geomspace(flops.min(), flops.max() * 10, 40)
        answers = [oracle.answer("", flops=float(budget)).loss for budget in budgets]
        axes.plot(budgets, [a.value for a in answers], color=_BLACK, linestyle="--", linewidth=1.4, label="best size")
        axes.fill_between(
            budgets, [a.low for a in answers], [a.high for a in answers], color=_GREY, alpha=0.3, linewidth=0
        )
    elif law.terms == ("N",):
        along = np.geomspace(sizes.min() / 1.5, sizes.max() * 3, 80)
        axes.plot(oracle.flops(along) * tokens[0], _of_first(law, along, np.full(80, tokens[0])), color=_GREY)
    axes.set(xscale="log", xlabel="training FLOPs", ylabel="validation loss (nats per token)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.legend(frameon=False, fontsize=8)
    write_picture(figure, path)


def _of_first(law: Law, sizes: Floats, tokens: Floats) -> Floats:
    of = {"N": sizes, "D": tokens}
    return np.asarray(law.loss(**{term: of[term][None] for term in law.terms})[0])
