"""The HTML page of a report: one self-contained file with data and plotly."""

from __future__ import annotations

import base64
import functools
import json
import math
import zlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from groundup.display.markdown import capital
from groundup.errors import MissingExtraError
from groundup.record.read import MEASURES, UNITS
from groundup.reports.content import UNSTABLE, Content, Front, unstable_text
from groundup.reports.curves import Line, pack, shown_settings, style_of
from groundup.reports.finding import estimate_text
from groundup.reports.settings import Setting, Study, short_name
from groundup.reports.tokenizers import TokenizerChapter
from groundup.version import VERSION

# A plot of more settings would be too long; the table has all of them.
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
    # Files of the package, and data that as_json makes safe; everything else is escaped.
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


def as_json(value: Any) -> str:
    """JSON that is safe in a script element: no ``<`` ends the element or opens a comment."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _page_file(name: str) -> str:
    return (resources.files("groundup.reports") / "page" / name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> str:
    """plotly.js of the installed package, compressed to a third of its 4.8 MB."""
    try:
        script = resources.files("plotly") / "package_data" / "plotly.min.js"
        return base64.b64encode(zlib.compress(script.read_bytes(), 9)).decode("ascii")
    except (ImportError, OSError):
        raise MissingExtraError.for_package("plotly", "report", "a report's page") from None


def _study_data(study: Study, curves: list[dict[str, Any]], found: dict[str, Any] | None) -> dict[str, Any]:
    shown = shown_settings(study)
    stable = [place for place, setting in enumerate(study.settings) if not setting.unstable]
    settings = [
        {"label": setting.label, "colour": colour, "dash": dash}
        | ({"ended": _short_end(setting)} if setting.diverged else {})
        for setting, (colour, dash) in zip(study.settings, style_of(study), strict=True)
    ]
    return {
        "measure": study.measure if any(curve["m"] == "val_loss" for curve in curves) else "train_loss",
        "settings": settings,
        "shown": [place for place, setting in enumerate(study.settings) if setting in shown],
        "fit": stable or list(range(len(study.settings))),
        "rest": len(shown) < len(study.settings),
        "curves": curves,
        "summary": found,
    }


def summary(study: Study) -> dict[str, Any] | None:
    """Final results of all settings with confidence intervals, along the axis or as rows; None for a single setting."""
    if len(study.settings) < 2 or not study.ranked:
        return None
    best = study.ranked[0][0]
    settings = study.settings
    if len(settings) > _MOST_IN_A_SUMMARY and not study.axis:
        kept = [setting for setting, _ in study.ranked[:_MOST_IN_A_SUMMARY]]
        settings = [setting for setting in settings if setting in kept or setting is study.baseline]
    unit = "" if study.measure == "val_bpb" else f" ({UNITS[study.measure]})"
    several = any(len(setting.values(study.measure)) > 1 for setting in settings)
    note = (
        "Bars: 95 % confidence intervals of the mean; rings: single seeds."
        if several
        else "One seed for each setting, so there are no confidence intervals."
    )
    if any(setting.unstable > setting.diverged for setting in settings):
        note += f" Unstable: {UNSTABLE}."
    if len(settings) < len(study.settings):
        note += f" The {len(settings)} lowest of {len(study.settings)} settings."
    found: dict[str, Any] = {
        "kind": "axis" if study.axis else "settings",
        "title": f"Final {MEASURES[study.measure]}",
        "note": note,
        "measure": MEASURES[study.measure] + unit,
        "points": [_point(study, setting, setting is best) for setting in settings],
    }
    if study.axis:
        values = [float(setting.varied[study.axis]) for setting in settings]
        found |= {
            "axis": short_name(study.axis, [study.axis]),
            "log": min(values) > 0 and max(values) >= 8 * min(values),
            "ticks": values if len(values) <= 10 else [values[round(i * (len(values) - 1) / 7)] for i in range(8)],
        }
    return found


def _point(study: Study, setting: Setting, best: bool) -> dict[str, Any]:
    value = setting.estimate(study.measure)
    return {
        "at": float(setting.varied[study.axis]) if study.axis else setting.label,
        "mean": value.mean if value else None,
        "reach": value.reach if value and value.reach is not None and math.isfinite(value.reach) else None,
        "values": list(setting.values(study.measure).values()),
        "text": estimate_text(value) if value else "",
        "diverged": _short_end(setting),
        "unstable": unstable_text(setting),
        "best": best,
    }


def _short_end(setting: Setting) -> str:
    if not setting.diverged:
        return ""
    return "diverged" if setting.all_diverged else f"{setting.diverged} of {len(setting.runs)} diverged"
