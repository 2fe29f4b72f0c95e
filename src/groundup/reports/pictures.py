"""Pictures of a report in Markdown: final results of all settings, and their curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from groundup.display.figure import drawable
from groundup.errors import MissingExtraError
from groundup.record.curve import smooth, thin
from groundup.record.read import MEASURES, UNITS
from groundup.reports.curves import INK, Line, shown_settings, style_of
from groundup.reports.page.write import summary
from groundup.reports.settings import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLACK, _GREY, _ACCENT, _BAD = "#1c1f24", "#9aa1ab", "#0072B2", "#B04A00"
_DASHES: dict[str, Any] = {"solid": "-", "dash": (0, (5, 2.5)), "dot": (0, (1.2, 1.8)), "dashdot": (0, (5, 2, 1.2, 2))}
# Training losses of single batches are noisy.
SMOOTHING = 0.02
"""Share of a run over which the drawn training loss is averaged."""
_POINTS_OF_A_LINE = 1000
_POINTS_OF_A_BACKGROUND_LINE = 100
_LONGEST_LABEL = 44
# The first losses, near ln V, would fill the axis; so would those of runs that diverge or are unstable.
_SHOWN_FROM = 0.15


def figures_of(study: Study, lines: list[Line]) -> dict[str, Figure]:
    """Pictures by name; those with nothing to show are left out.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
    except ImportError:
        raise MissingExtraError.for_package("matplotlib", "report", "the pictures of a report") from None
    found = {}
    with rc_context({"font.size": 9, "axes.titlesize": 10, "legend.fontsize": 8, "axes.edgecolor": _GREY}):
        ends = summary(study)
        if ends is not None:
            found["ends"] = _draw_ends(study, ends)
        measures = [name for name in (study.measure, "train_loss") if any(line.measure == name for line in lines)]
        if measures:
            found["curves"] = _draw_curves(study, lines, measures)
    return found


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _draw_ends(study: Study, ends: dict[str, Any]) -> Figure:
    along = ends["kind"] == "axis"
    points = ends["points"]
    figure = _figure(7.2, 3.6 if along else 1.1 + 0.32 * len(points))
    ax = figure.subplots()
    done = [(place, point) for place, point in enumerate(points) if point["mean"] is not None]
    at = [point["at"] if along else place for place, point in done]
    means, reaches = [point["mean"] for _, point in done], [point["reach"] or 0.0 for _, point in done]
    style: dict[str, Any] = {"color": _ACCENT, "capsize": 3, "linewidth": 1.3, "markersize": 5, "zorder": 3}
    if along:
        ax.errorbar(at, means, yerr=reaches, fmt="o-", **style)
    else:
        ax.errorbar(means, at, xerr=reaches, fmt="o", **style)
    ring: dict[str, Any] = {"s": 22, "facecolors": "none", "edgecolors": _BLACK, "linewidths": 0.7, "alpha": 0.6}
    for place, point in done:
        where = [point["at"] if along else place] * len(point["values"])
        ax.scatter(*((where, point["values"]) if along else (point["values"], where)), zorder=4, **ring)
    for place, point in done:
        if point["unstable"]:
            x, y = (point["at"], point["mean"]) if along else (point["mean"], place)
            ax.plot(x, y, "o", color=_BAD, markersize=6, zorder=5)
            ax.annotate(point["unstable"], (x, y), (-6, 3) if along else (0, 6), textcoords="offset points", color=_BAD,
                        fontsize=8, ha="right" if along else "center", va="bottom")  # fmt: skip
    if any(point["diverged"] for point in points):
        # Above all finite values.
        top = max(max(*point["values"], point["mean"] + (point["reach"] or 0.0)) for _, point in done)
        span = top - min(min(point["values"]) for _, point in done) or 1.0
        _mark_diverged(ax, points, top + 0.1 * span, along=along)
        ax.update_datalim([(points[0]["at"], top + 0.2 * span)] if along else [(top + 0.12 * span, 0)])
    if along:
        ax.set(xlabel=ends["axis"], ylabel=ends["measure"])
        if ends["log"]:
            ax.set_xscale("log")
        ax.set_xticks(ends["ticks"], [f"{tick:g}" for tick in ends["ticks"]])
        ax.minorticks_off()
    else:
        ax.set_yticks(range(len(points)), [drawable(_cut(point["at"])) for point in points])
        ax.set(xlabel=ends["measure"], ylim=(len(points) - 0.5, -0.5))
    ax.set_title(f"{study.name}: {ends['title'].lower()}", loc="left")
    _finish(ax)
    return figure


def _mark_diverged(ax: Axes, points: list[dict[str, Any]], top: float, *, along: bool) -> None:
    for place, point in enumerate(points):
        if point["diverged"]:
            x, y = (point["at"], top) if along else (top, place)
            ax.plot(x, y, "x", color=_BAD, markersize=7, markeredgewidth=2, zorder=5)
            offset: dict[str, Any] = {"ha": "center", "va": "bottom"} if along else {"ha": "right", "va": "center"}
            text = point["diverged"].replace(" diverged", "\ndiverged") if along else point["diverged"]
            ax.annotate(text, (x, y), (0, 6) if along else (-7, 0), textcoords="offset points", color=_BAD,
                        fontsize=8, **offset)  # fmt: skip


def _draw_curves(study: Study, lines: list[Line], measures: list[str]) -> Figure:
    shown, styles = shown_settings(study), style_of(study)
    columns = 1 if len(shown) <= 6 else 2
    legend_height = 0.22 * -(-len(shown) // columns) + 0.2 if len(study.settings) > 1 else 0.0
    figure = _figure(3.7 * len(measures) if len(measures) > 1 else 6.5, 3.3 + legend_height)
    handles: dict[int, Any] = {}
    timed = all(
        run.options.get("train.finish_schedule") is True or bool(run.options.get("train.minutes"))
        for run in study.runs
        if run.options
    )
    all_unstable = all(setting.unstable for setting in study.settings)
    for ax, measure in zip(np.atleast_1d(figure.subplots(1, len(measures))), measures, strict=True):
        of_measure = [line for line in lines if line.measure == measure]
        averaged = {line.setting for line in of_measure if line.seed is None}
        share = SMOOTHING if measure == "train_loss" else 0.0
        low, high, smoothed = np.inf, -np.inf, False
        ends: dict[int, float] = {}
        for line in of_measure:
            single = line.seed is not None and line.setting in averaged
            background = study.settings[line.setting] not in shown
            if single and (background or len(shown) > 6):
                continue
            values = smooth(line.curve.values, share)
            smoothed |= values is not line.curve.values
            most = _POINTS_OF_A_BACKGROUND_LINE if background else _POINTS_OF_A_LINE
            curve = thin(line.curve._replace(values=values), most)
            along = curve.seconds if timed else curve.steps
            if background:
                ax.plot(along, curve.values, color=_GREY, linewidth=0.4, alpha=0.4, zorder=1)
                continue
            colour, dash = styles[line.setting]
            look = {"color": _BLACK if colour == INK else colour, "linestyle": _DASHES[dash]}
            width = 0.6 if single else 1.9 if colour == INK else 1.5
            (drawn,) = ax.plot(along, curve.values, linewidth=width, alpha=0.4 if single else 1.0, **look)
            if not single:
                handles[line.setting] = drawn
                ends[line.setting] = float(curve.values[-1])
            if all_unstable or not study.settings[line.setting].unstable:
                late = curve.values[curve.steps >= _SHOWN_FROM * curve.steps[-1]]
                low, high = min(low, late.min()), max(high, late.max())
        if np.isfinite(low):
            room = 0.05 * (high - low) or 0.05
            ax.set_ylim(low - room, high + room)
            if above := sum(end > high + room for end in ends.values()):
                text = f"{above} {'line ends' if above == 1 else 'lines end'} above this"
                ax.annotate(text, (0.98, 0.97), xycoords="axes fraction", ha="right", va="top", fontsize=8, color=_BAD)
        how = f", mean over {share:.0%} of a run" if smoothed else ""
        unit = "" if measure == "val_bpb" else f"\n({UNITS[measure]}{how})"
        ax.set(xlabel="wall-clock time (s)" if timed else "steps", ylabel=f"{MEASURES[measure]}{unit}")
        ax.xaxis.set_major_locator(_few_ticks())
        _finish(ax)
    if len(study.settings) > 1:
        order = sorted(handles)
        labels = [_cut(study.settings[setting].label) for setting in order]
        figure.legend(
            [handles[setting] for setting in order], labels, loc="outside lower center", ncols=columns, frameon=False
        )
    figure.suptitle(_cut(study.name, 80), fontsize=10, x=0.02, ha="left")
    return figure


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5)


def _finish(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, linewidth=0.5)


def _cut(text: str, most: int = _LONGEST_LABEL) -> str:
    # A dollar would begin a formula, and a label that begins with an underscore is left out of a legend.
    plain = text.replace("$", r"\$")
    plain = f" {plain}" if plain.startswith("_") else plain
    return plain if len(text) <= most else f"{plain[: most - 1]}…"
