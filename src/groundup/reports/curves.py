"""Curves of a report: selection, colours, and packing into compressed binary for the page."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from groundup.record.curve import Curve, bucket_means, mean_of, thin
from groundup.record.read import MEASURES
from groundup.reports.settings import Setting, Study

# Points of the whole page, 12 bytes each, plus half as many for smoothing: some hundred points a curve with 500 runs,
# more than a screen has pixels with a few.
_POINTS = 180_000
_MOST_OF_A_CURVE = 2000
_FEWEST_OF_A_CURVE = 40
# Those of Okabe & Ito's colours, safe for colour-blind readers, that are visible on white and on black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash", "dot", "dashdot")
INK = "ink"
"""The text colour, used for the baseline."""
MOST_LINES = 12
"""Settings drawn at first; more cannot be told apart."""


@dataclass
class Line:
    """A curve of a setting: one seed, or the mean over several."""

    setting: int
    seed: int | None
    """None for the mean."""
    measure: str
    curve: Curve
    tokens_per_step: float
    flops_per_token: float | None


def lines_of(study: Study) -> list[Line]:
    """All curves of a study: one for each run, and the mean of each setting with several finished seeds."""
    found = []
    for place, setting in enumerate(study.settings):
        for measure in MEASURES:
            runs = [run for run in setting.runs if measure in run.curves]
            for run in runs:
                scale = run.tokens_per_step, run.flops_per_token
                found.append(Line(place, run.seed, measure, run.curves[measure], *scale))
            sound = [run for run in runs if run.status == "finished"]
            mean = mean_of([run.curves[measure] for run in sound]) if len(sound) > 1 else None
            if mean is not None:
                scale = sound[0].tokens_per_step, sound[0].flops_per_token
                found.append(Line(place, None, measure, mean, *scale))
    return found


def style_of(study: Study) -> list[tuple[str, str]]:
    """Colour and dash of each setting; the baseline has the text colour."""
    shown = shown_settings(study)
    # Settings that are drawn at first get distinct colours.
    order = [setting for setting in shown if setting is not study.baseline] + [
        c for c in study.settings if c not in shown
    ]
    styles = {
        id(setting): (COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)])
        for number, setting in enumerate(order)
    }
    return [(INK, "solid") if setting is study.baseline else styles[id(setting)] for setting in study.settings]


def shown_settings(study: Study) -> list[Setting]:
    """Settings whose curves are drawn at first: all, or the baseline and the lowest."""
    if len(study.settings) <= MOST_LINES:
        return study.settings
    ranked = [setting for setting, _ in study.ranked][:MOST_LINES]
    if study.baseline is not None and study.baseline not in ranked:
        ranked = [study.baseline, *ranked[: MOST_LINES - 1]]
    return [setting for setting in study.settings if setting in ranked] or study.settings[:MOST_LINES]


def pack(studies: list[list[Line]]) -> tuple[list[list[dict[str, Any]]], str]:
    """Describe the curves, and pack their numbers as base64 of zlib-compressed 32-bit floats.

    A description has the number of points (n) whose steps, values and seconds follow in the numbers, and the number of
    bucket means (k) to smooth from; without k the page smooths the points. Bits per byte usually equal the validation
    loss times a constant of the text; then only the constant (b) is stored.
    """
    ratios = [_bits_ratios(lines) for lines in studies]
    kept = [
        [line for line in lines if not (line.measure == "val_bpb" and (line.setting, line.seed) in ratio)]
        for lines, ratio in zip(studies, ratios, strict=True)
    ]
    lengths = sorted(len(line.curve.steps) for lines in kept for line in lines)
    most = _share(lengths)
    descriptions, numbers = [], []
    for lines, ratio in zip(kept, ratios, strict=True):
        described = []
        for line in lines:
            points, means = thin(line.curve, most), bucket_means(line.curve, most // 2)
            thinned = len(points.steps) < len(line.curve.steps)
            numbers += [*points, *(means if thinned else ())]
            about: dict[str, Any] = {"c": line.setting, "m": line.measure, "n": len(points.steps)}
            about |= {"s": line.seed} if line.seed is not None else {}
            about |= {"k": len(means.steps)} if thinned else {}
            about |= {"t": float(f"{line.tokens_per_step:.6g}")} if np.isfinite(line.tokens_per_step) else {}
            about |= {"f": float(f"{line.flops_per_token:.6g}")} if line.flops_per_token else {}
            if line.measure == "val_loss" and (line.setting, line.seed) in ratio:
                about["b"] = float(f"{ratio[line.setting, line.seed]:.9g}")
            described.append(about)
        descriptions.append(described)
    flat = np.concatenate(numbers).astype("<f4") if numbers else np.zeros(0, "<f4")
    return descriptions, base64.b64encode(zlib.compress(flat.tobytes(), 6)).decode("ascii")


def _share(lengths: list[int]) -> int:
    """The most points of a curve that keep the page within its total; short curves leave room for long ones."""
    left = _POINTS
    for place, length in enumerate(lengths):
        fair = left // (len(lengths) - place)
        if length > fair:
            return max(_FEWEST_OF_A_CURVE, min(_MOST_OF_A_CURVE, fair))
        left -= length
    return _MOST_OF_A_CURVE


def _bits_ratios(lines: list[Line]) -> dict[tuple[int, int | None], float]:
    losses = {(line.setting, line.seed): line.curve for line in lines if line.measure == "val_loss"}
    found = {}
    for line in lines:
        loss = losses.get((line.setting, line.seed)) if line.measure == "val_bpb" else None
        if loss is None or not np.array_equal(loss.steps, line.curve.steps) or np.any(loss.values <= 0):
            continue
        ratios = line.curve.values / loss.values
        if np.ptp(ratios) <= 1e-6 * np.max(ratios):
            found[line.setting, line.seed] = float(ratios[0])
    return found
