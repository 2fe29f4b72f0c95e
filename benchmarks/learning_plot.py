"""Plot of the results of `train_learning.py`, readable at half a page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from groundup.errors import MissingExtraError
from loss_curves import mean_curve
from side_by_side import Row
from train_peers import OURS, PEER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe & Ito, which is safe for all kinds of colour vision.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#777777"
COLOURS = {OURS: BLUE, PEER: ORANGE, "adamw": BLUE, "muon": GREEN}
MARKERS = {"adamw": "o", "muon": "s"}
NAMES = {"adamw": "AdamW", "muon": "Muon"}
LOSS = "validation loss (nats a token)"
# The first losses, about ln V, would take most of the axis.
SHOWN_FROM = 0.12


class Found(Protocol):
    """Interface of the data to plot; `train_learning.Findings` implements it."""

    @property
    def parity(self) -> dict[str, list[Row]]: ...
    @property
    def sweep(self) -> dict[str, dict[float, float]]: ...
    @property
    def best(self) -> dict[str, list[Row]]: ...
    @property
    def budgets(self) -> dict[float, list[Row]]: ...


def check_plot() -> None:
    """Check in advance that plotting is possible.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401 - only checks that it is installed
    except ImportError:
        raise MissingExtraError.for_package("matplotlib", "plot", "--plot") from None


def draw(found: Found, title: str) -> Figure:
    """Draw two panels for each measured part. Raises as `check_plot`."""
    check_plot()
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels: list[Callable[[Axes, Any], None]] = []
    panels += [_draw_parity, _draw_difference] if found.parity else []
    panels += [_draw_sweep, _draw_muon] if found.sweep else []
    rows = max(1, len(panels) // 2)
    with rc_context({"font.size": 8, "axes.titlesize": 9, "legend.fontsize": 7}):
        layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
        figure = Figure(figsize=(7.2, 2.7 * rows + 0.3), layout=layout)
        figure.suptitle(title, fontsize=10)
        axes = figure.subplots(rows, 2, squeeze=False).flat
        for panel, ax in zip(panels, axes, strict=False):
            panel(ax, found)
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.25, linewidth=0.5)
    return figure


def _draw_parity(ax: Axes, found: Found) -> None:
    styles = {PEER: {"linewidth": 4.0, "alpha": 0.55}, OURS: {"linewidth": 1.2}}
    names = {PEER: "transformers, torch's AdamW", OURS: "groundup"}
    for who, style in styles.items():
        rows = found.parity[who]
        for number, row in enumerate(rows):
            tokens, losses = _late(row["curve"])
            ax.plot(tokens, losses, color=COLOURS[who], label=None if number else names[who], **style)
    seeds = len(found.parity[OURS])
    ax.set(title=f"the same learning, {seeds} seeds", xlabel="tokens (million)", ylabel=LOSS)
    ax.legend(frameon=False)


def _draw_difference(ax: Axes, found: Found) -> None:
    peers = [row["curve"] for row in found.parity[PEER]]
    tokens = [point[0] / 1e6 for point in peers[0]]
    noise = [1e3 * statistics.stdev(point[1] for point in points) for points in zip(*peers, strict=True)]
    ax.fill_between(
        tokens, [-value for value in noise], noise, color=ORANGE, alpha=0.3, linewidth=0,
        label="± standard deviation over seeds (transformers)",
    )  # fmt: skip
    for number, (ours, theirs) in enumerate(zip(found.parity[OURS], found.parity[PEER], strict=True)):
        difference = [1e3 * (a[1] - b[1]) for a, b in zip(ours["curve"], theirs["curve"], strict=True)]
        label = None if number else "groundup − transformers, each seed"
        ax.plot(tokens, difference, color=BLUE, linewidth=1.2, marker=".", markersize=4, label=label)
    ax.axhline(0, color=GREY, linewidth=0.8)
    # Room for the legend above the curves.
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.3 * (high - low))
    ax.set(title="difference", xlabel="tokens (million)", ylabel="difference of loss\n(thousandths of a nat)")
    ax.legend(frameon=False, loc="upper right")


def _draw_sweep(ax: Axes, found: Found) -> None:
    rates = sorted({rate for losses in found.sweep.values() for rate in losses})
    for optimizer, losses in found.sweep.items():
        points = sorted((rate, loss) for rate, loss in losses.items() if math.isfinite(loss))
        best = min(points, key=lambda point: point[1])
        look = {"color": COLOURS[optimizer], "marker": MARKERS[optimizer]}
        ax.plot(*zip(*points, strict=True), linewidth=1.2, markersize=4, label=NAMES[optimizer], **look)
        ax.plot(*best, markersize=9, fillstyle="none", **look)
    ax.set_xscale("log", base=2)
    ax.set_xticks(rates, [f"{1e3 * rate:g}" for rate in rates])
    ax.set(title="rate sweep, best ringed", xlabel="peak learning rate (× 10⁻³)", ylabel="final " + LOSS)
    ax.legend(frameon=False)


def _draw_muon(ax: Axes, found: Found) -> None:
    whole = found.best["adamw"][0]["curve"][-1][0]
    for optimizer, rows in found.best.items():
        tokens, losses = _late(mean_curve([row["curve"] for row in rows]))
        ax.plot(tokens, losses, color=COLOURS[optimizer], linewidth=1.5, label=NAMES[optimizer])
    target = statistics.mean(row["final_loss"] for row in found.best["adamw"])
    for number, (share, rows) in enumerate(found.budgets.items()):
        tokens, losses = _late(mean_curve([row["curve"] for row in rows]), SHOWN_FROM * whole / 1e6)
        label = None if number else "Muon, schedule ending earlier"
        ax.plot(tokens, losses, color=GREEN, linewidth=0.9, linestyle="--", label=label)
        ax.plot(tokens[-1], losses[-1], color=GREEN, marker="s", markersize=4)
        ax.annotate(
            f"{100 * share:g} %", (tokens[-1], losses[-1]), (0, -4), textcoords="offset points", ha="center", va="top",
            fontsize=7, color=GREEN,
        )  # fmt: skip
    ax.axhline(target, color=BLUE, linewidth=0.8, linestyle=":", label="AdamW's final loss")
    ax.set(title=f"best rates, mean of {len(found.best['muon'])} seeds", xlabel="tokens (million)", ylabel=LOSS)
    low, high = ax.get_ylim()
    ax.set_ylim(low - 0.05 * (high - low), high)
    ax.legend(frameon=False)


def _late(curve: list[tuple[int, float]], start: float | None = None) -> tuple[list[float], list[float]]:
    """Million tokens and losses, without the first part of the curve."""
    start = SHOWN_FROM * curve[-1][0] / 1e6 if start is None else start
    shown = [(tokens / 1e6, loss) for tokens, loss in curve if tokens / 1e6 >= start]
    return [tokens for tokens, _ in shown], [loss for _, loss in shown]
