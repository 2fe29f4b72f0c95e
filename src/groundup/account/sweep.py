"""Cost of a run as a function of one option."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from groundup.display.figure import new_figure
from groundup.display.section import Section
from groundup.display.units import flops_text, size_text, time_text
from groundup.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINES = (
    ("saved activations", "activations"),
    ("peak", "peak"),
    ("weights and optimizer state", "fixed"),
)


def parse_sweep(text: str) -> tuple[str, list[str]]:
    """``context_length=256,1024`` as name and values.

    Raises:
        ConfigError: no name, or no values.
    """
    name, equals, values = text.partition("=")
    found = [value.strip() for value in values.split(",") if value.strip()]
    if not (name.strip() and equals and found):
        raise ConfigError(f"--sweep {text}; expected NAME=VALUE,VALUE,…, such as context_length=256,1024,4096")
    return name.strip().replace("-", "_"), found


def sweep_rows(documents: list[dict[str, Any]], values: list[Any]) -> list[dict[str, Any]]:
    """The figures that change, value by value."""
    rows = []
    for value, document in zip(values, documents, strict=True):
        memory, flops, run = document["memory"], document["flops"], document["run"]
        rows.append(
            {
                "value": value,
                "parameters": document["parameters"]["total"],
                "flops_per_token": flops["per_token"],
                "attention_share": sum(flops["components"][part]["share"] for part in ("scores", "values")),
                "activations": memory["activations"],
                "fixed": memory["weights"] + memory["optimizer_state"],
                "peak": memory["peak"],
                "seconds": run.get("seconds"),
            }
        )
    return rows


def sweep_section(name: str, rows: list[dict[str, Any]]) -> Section:
    """The sweep as a table."""
    # A figure that does not change has no column: the table should fit a narrow terminal.
    grows = len({row["parameters"] for row in rows}) > 1
    header = [name, *(["parameters"] if grows else []), "a token", "attention", "saved", "peak"]
    timed = any(row["seconds"] is not None for row in rows)
    cells = [
        (
            f"{row['value']:,}" if _is_number(row["value"]) else str(row["value"]).lower(),
            *([f"{row['parameters']:,}"] if grows else []),
            flops_text(row["flops_per_token"]),
            f"{row['attention_share']:.1%}",
            size_text(row["activations"]),
            size_text(row["peak"]),
            *([time_text(row["seconds"]) if row["seconds"] is not None else "n/a"] if timed else []),
        )
        for row in rows
    ]
    note = "attention: share of the forward pass's FLOPs in scores and weighted values. saved: saved activations."
    title = f"as {name} changes" + ("" if grows else f", with {rows[0]['parameters']:,} parameters")
    return Section(title, (*header, *(["the run"] if timed else [])), cells, note)


def sweep_figure(title: str, name: str, rows: list[dict[str, Any]]) -> Figure:
    """FLOPs of a token and memory of a step against the values.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(10, 4, "the picture of a sweep")
    left, right = figure.subplots(1, 2)
    figure.suptitle(title, fontsize=11)
    numbers = all(_is_number(row["value"]) for row in rows)
    x = [row["value"] if numbers else str(row["value"]).lower() for row in rows]
    left.plot(x, [row["flops_per_token"] / 1e9 for row in rows], "o-", color="#0072B2", label="forward and backward")
    attention = [row["flops_per_token"] * row["attention_share"] / 1e9 for row in rows]
    left.plot(x, attention, "s--", color="#E69F00", label="of which attention's scores and values")
    left.set_ylabel("GFLOPs a token")
    # Memory spans several orders of magnitude where scores are saved.
    for (label, key), colour, marker in zip(_LINES, ("#009E73", "#D55E00", "#999999"), "os^", strict=True):
        right.plot(x, [row[key] / 1e9 for row in rows], f"{marker}-", color=colour, label=label)
    right.set_ylabel("GB a step")
    right.set_yscale("log")
    left.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xlabel(name)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=9)
        if numbers:
            axes.set_xscale("log", base=2)
            axes.set_xticks(x, [f"{value:,}" for value in x])
            axes.minorticks_off()
    return figure


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
