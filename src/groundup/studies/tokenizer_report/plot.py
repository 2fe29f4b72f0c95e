"""A tokenizer report as a picture: bytes per token, speed, training, and where encoding's time goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from groundup.display.figure import drawable, picture_bytes
from groundup.errors import MissingExtraError
from groundup.studies.tokenizer_report.tables import (
    ORIGINAL_REPORT,
    PROFILE_PARTS,
    counted,
    description,
    duration,
    size,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's colours, which people of all kinds of colour vision tell apart.
_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"]
_GREY = "#999999"
_INCHES_PER_ROW = 0.3
_BAR = 0.72
_SPEED_MARKERS = {"cold": ("o", "none"), "warm": ("o", _COLOURS[0]), "list": ("D", _COLOURS[1])}
_SPEED_NAMES = {"cold": "cold", "warm": "warm", "list": "warm, to Python lists"}
_MB, _SECONDS_PER_HOUR = 1e6, 3600


def check_plot() -> None:
    """Check beforehand that a picture can be drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401 - only checks that it is installed
    except ImportError:
        raise MissingExtraError.for_package(
            "matplotlib", "plot", "the picture of a report (--no-plot leaves it out)"
        ) from None


def picture(report: dict[str, Any]) -> bytes:
    """The report as PNG. Raises as `check_plot`."""
    return picture_bytes(draw(report), "png", dpi=150)


def draw(report: dict[str, Any]) -> Figure:
    """The report as a matplotlib figure. Raises as `check_plot`."""
    check_plot()
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    pairs = len(report["compression"])
    trained = [row for row in report["tokenizers"] if row["training"]]
    upper, lower = pairs + len(report["original_report"]["compression"]), max(pairs, len(trained))
    heights = [upper * _INCHES_PER_ROW + 1.1, lower * _INCHES_PER_ROW + 1.5]
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12)
    figure = Figure(figsize=(13, sum(heights) + 0.6), layout=layout)
    axes = figure.subplots(2, 2, height_ratios=heights)
    figure.suptitle(description(report), fontsize=11)
    _draw_compression(axes[0, 0], report)
    _draw_speed(axes[0, 1], report)
    _draw_profile(axes[1, 0], report)
    if trained:
        _draw_training(axes[1, 1], report, trained)
    else:
        axes[1, 1].set_axis_off()
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
    return figure


def _draw_compression(ax: Axes, report: dict[str, Any]) -> None:
    order = [tokenizer["name"] for tokenizer in report["tokenizers"]]
    original = report["original_report"]["compression"]
    labels = [_pair(row) for row in [*report["compression"], *original]]
    values = [row["held_out"]["bytes_per_token"] for row in report["compression"]]
    values += [row["bytes_per_token"] for row in original]
    colours = [_COLOURS[order.index(row["tokenizer"]) % len(_COLOURS)] for row in report["compression"]]
    colours += [_GREY] * len(original)
    rows = [*range(len(report["compression"])), *(len(report["compression"]) + 0.4 + i for i in range(len(original)))]
    ax.barh(rows, values, _BAR, color=colours)
    for position, value in zip(rows, values, strict=True):  # at the edge, where no stroke is
        ax.text(
            1.0,
            position,
            f"{value:.2f}",
            transform=ax.get_yaxis_transform(),
            ha="right",
            va="center_baseline",
            fontsize=9,
        )
    for row, position in zip(report["compression"], rows, strict=False):
        drawn = row["sample"]["bytes_per_token_by_document"]
        ax.plot(drawn, [position] * len(drawn), "|", color="black", markersize=7, alpha=0.6)
    documents = max(row["sample"]["documents"] for row in report["compression"])
    _rows(ax, rows, labels)
    largest = max(max(row["sample"]["bytes_per_token_by_document"]) for row in report["compression"])
    ax.set_xlim(0, max(largest, *values) * 1.15)
    ax.set_xlabel(
        f"bytes per token, more is better\nbar: all held-out text; strokes: {counted(documents, 'document')} of it; "
        f"grey: {ORIGINAL_REPORT}"
    )
    ax.set_title("Compression of held-out text: tokenizer on text", loc="left")


def _draw_speed(ax: Axes, report: dict[str, Any]) -> None:
    rows = list(range(len(report["speed"])))
    for mode, (marker, face) in _SPEED_MARKERS.items():
        rates = [row["bytes_per_second"][mode] / _MB for row in report["speed"]]
        edge = _COLOURS[0] if face == "none" else face
        ax.plot(
            rates, rows, marker, markerfacecolor=face, markeredgecolor=edge, markeredgewidth=1.5, markersize=8,
            linestyle="none", label=_SPEED_NAMES[mode],
        )  # fmt: skip
    original = report["original_report"]["speed"]
    ax.axvline(
        original["bytes_per_second"] / _MB, color=_GREY, linestyle="--",
        label=f"{ORIGINAL_REPORT}: {original['bytes_per_second'] / _MB:.2f} MB/s, {duration(original['pile_seconds'])}",
    )  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _rows(ax, rows, [_pair(row) for row in report["speed"]])
    ax.grid(axis="x", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)

    def hours(megabytes_per_second: Any) -> Any:
        # Its own inverse; the axis also asks about rates of 0.
        return 825e9 / _MB / _SECONDS_PER_HOUR / (megabytes_per_second + 1e-12)

    top = ax.secondary_xaxis("top", functions=(hours, hours))
    top.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    top.set_xlabel("hours for The Pile (825 GB)", fontsize=9)
    top.tick_params(labelsize=9)
    ax.set_xlabel("MB/s")
    _legend_below(ax, columns=2)
    ax.set_title("Encoding speed, one thread", loc="left")


def _draw_profile(ax: Axes, report: dict[str, Any]) -> None:
    rows = list(range(len(report["speed"])))
    parts = {
        name: [1e9 * row["profile_cpu_seconds"][part] / row["bytes"] for row in report["speed"]]
        for part, name in PROFILE_PARTS.items()
    }
    sums = _stack(ax, rows, parts)
    for row, total in zip(rows, sums, strict=True):
        ax.annotate(f"{total:.0f}", (total, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
    _rows(ax, rows, [_pair(row) for row in report["speed"]])
    ax.set_xlim(0, max(sums) * 1.1)
    ax.set_xlabel("CPU nanoseconds per byte of text")
    ax.set_title("Where the time of a first pass to lists goes", loc="left")


def _draw_training(ax: Axes, report: dict[str, Any], trained: list[dict[str, Any]]) -> None:
    rows = list(range(len(trained)))
    training = [row["training"] for row in trained]
    known = all(t["counting_seconds"] is not None for t in training)
    phases = ("reading", "counting", "merging") if known else ("wall",)
    sums = _stack(ax, rows, {phase: [t[f"{phase}_seconds"] for t in training] for phase in phases})
    for row, total, t in zip(rows, sums, training, strict=True):
        text = f"{total:.2f} s, {size(t['peak_memory_bytes'])} peak"
        ax.annotate(text, (total, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
    labels = [f"{row['name']}, {row['vocab_size']:,}\nfrom {size(row['training']['bytes'])}" for row in trained]
    _rows(ax, rows, labels)
    ax.set_xlim(0, max(sums) * 1.6)
    original = report["original_report"]["training"]
    ax.set_xlabel(
        f"wall seconds ({ORIGINAL_REPORT}, {original['tokenizer']}, {original['vocab_size']:,}: "
        f"{duration(original['wall_seconds'])})"
    )
    ax.set_title("Training", loc="left")


def _stack(ax: Axes, rows: list[int], parts: dict[str, list[float]]) -> list[float]:
    """Stacked bars with a legend below; returns their lengths."""
    ends = [0.0] * len(rows)
    for (name, values), colour in zip(parts.items(), _COLOURS, strict=False):
        ax.barh(rows, values, _BAR, left=ends, color=colour, edgecolor="white", linewidth=0.5, label=name)
        ends = [end + value for end, value in zip(ends, values, strict=True)]
    _legend_below(ax, columns=5)
    return ends


def _legend_below(ax: Axes, columns: int) -> None:
    from matplotlib.transforms import offset_copy

    # In inches, since the height of the axes differs.
    below_label = offset_copy(ax.transAxes, fig=ax.get_figure(root=True), y=-0.5, units="inches")
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below_label,
        ncols=columns, frameon=False, fontsize=9, columnspacing=1.2,
    )  # fmt: skip


def _rows(ax: Axes, positions: list[Any], labels: list[str]) -> None:
    ax.set_yticks(positions, list(map(drawable, labels)))
    ax.set_ylim(max(positions) + 0.6, -0.6)


def _pair(row: dict[str, Any]) -> str:
    return f"{row['tokenizer']} on {row['corpus']}"
