"""The report as one page that needs nothing but itself: data, plotly and all."""

from __future__ import annotations

import base64
import functools
import math
import zlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from groundup.errors import MissingExtraError
from groundup.record.read import MEASURES, UNITS
from groundup.reports.content import UNSTABLE, Content, as_json, unstable_text
from groundup.reports.curves import Line, pack, shown_cells, style_of
from groundup.reports.finding import estimate_text
from groundup.reports.front import Front
from groundup.reports.markdown import capital
from groundup.reports.settings import Cell, Study, short_name
from groundup.reports.tokenizers import TokenizerChapter
from groundup.version import VERSION

# A plot of more cells would be longer than anybody scrolls; the table has all.
_MOST_IN_A_SUMMARY = 40


def render_page(
    front: Front,
    studies: Sequence[Study],
    contents: Sequence[Content],
    lines: list[list[Line]],
    tokenizers: Sequence[TokenizerChapter] = (),
) -> str:
    """The HTML of a report.

    Args:
        lines: the curves of each study.

    Raises:
        MissingExtraError: jinja2 or plotly is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError.for_package("jinja2", "report", "a report") from None
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["capital"] = capital
    described, numbers = pack(lines)
    summaries = [summary(study) for study in studies]
    data = {
        "studies": [
            _study_data(study, curves, found)
            for study, curves, found in zip(studies, described, summaries, strict=True)
        ]
    }
    # Our own files and what as_json has made safe; everything else is escaped.
    trusted = {
        "css": _page_file("report.css"), "js": _page_file("report.js"), "data": as_json(data), "numbers": numbers,
        "plotly": _plotly(),
    }  # fmt: skip
    page = environment.from_string(_page_file("report.html")).render(
        front=front,
        version=VERSION,
        studies=contents,
        tokenizers=tokenizers,
        pictures=[base64.b64encode(found.picture or b"").decode() for found in tokenizers],
        summaries=summaries,
        **{name: jinja2.utils.markupsafe.Markup(text) for name, text in trusted.items()},
    )
    return str(page)


def _page_file(name: str) -> str:
    return (resources.files("groundup.reports") / "page" / name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> str:
    """plotly.js as the installed package has it, compressed: a third of its 4.8 MB."""
    try:
        script = resources.files("plotly") / "package_data" / "plotly.min.js"
        return base64.b64encode(zlib.compress(script.read_bytes(), 9)).decode("ascii")
    except (ImportError, OSError):
        raise MissingExtraError.for_package("plotly", "report", "a report's page") from None


def _study_data(study: Study, curves: list[dict[str, Any]], found: dict[str, Any] | None) -> dict[str, Any]:
    shown = shown_cells(study)
    cells = [
        {"label": cell.label, "colour": colour, "dash": dash} | ({"ended": _short_end(cell)} if cell.diverged else {})
        for cell, (colour, dash) in zip(study.cells, style_of(study), strict=True)
    ]
    return {
        "measure": study.measure if any(curve["m"] == "val_loss" for curve in curves) else "train_loss",
        "cells": cells,
        "shown": [place for place, cell in enumerate(study.cells) if cell in shown],
        "fit": [place for place, cell in enumerate(study.cells) if not cell.unstable] or list(range(len(study.cells))),
        "rest": len(shown) < len(study.cells),
        "curves": curves,
        "summary": found,
    }


def summary(study: Study) -> dict[str, Any] | None:
    """The ends of all cells with their intervals: against the axis, or one below the other; None for a single cell."""
    if len(study.cells) < 2 or not study.ranked:
        return None
    best = study.ranked[0][0]
    cells = study.cells
    if len(cells) > _MOST_IN_A_SUMMARY and not study.axis:
        kept = [cell for cell, _ in study.ranked[:_MOST_IN_A_SUMMARY]]
        cells = [cell for cell in cells if cell in kept or cell is study.baseline]
    unit = "" if study.measure == "val_bpb" else f" ({UNITS[study.measure]})"
    several = any(len(cell.values(study.measure)) > 1 for cell in cells)
    note = (
        "Bars: 95 % intervals of the mean; rings: single seeds." if several else "One seed each: there is no interval."
    )
    if any(cell.unstable > cell.diverged for cell in cells):
        note += f" Unstable: {UNSTABLE}."
    if len(cells) < len(study.cells):
        note += f" The {len(cells)} lowest of {len(study.cells)} cells."
    found: dict[str, Any] = {
        "kind": "axis" if study.axis else "cells",
        "title": f"{MEASURES[study.measure].capitalize()} at the end",
        "note": note,
        "measure": MEASURES[study.measure] + unit,
        "points": [_point(study, cell, cell is best) for cell in cells],
    }
    if study.axis:
        values = [float(cell.varied[study.axis]) for cell in cells]
        found |= {
            "axis": short_name(study.axis, [study.axis]),
            "log": min(values) > 0 and max(values) >= 8 * min(values),
            "ticks": values if len(values) <= 10 else [values[round(i * (len(values) - 1) / 7)] for i in range(8)],
        }
    return found


def _point(study: Study, cell: Cell, best: bool) -> dict[str, Any]:
    value = cell.estimate(study.measure)
    return {
        "at": float(cell.varied[study.axis]) if study.axis else cell.label,
        "mean": value.mean if value else None,
        "reach": value.reach if value and value.reach is not None and math.isfinite(value.reach) else None,
        "values": list(cell.values(study.measure).values()),
        "text": estimate_text(value) if value else "",
        "diverged": _short_end(cell),
        "unstable": unstable_text(cell),
        "best": best,
    }


def _short_end(cell: Cell) -> str:
    if not cell.diverged:
        return ""
    return "diverged" if cell.all_diverged else f"{cell.diverged} of {len(cell.runs)} diverged"
