"""The curves of a report, thinned out and packed: numbers as compressed binary in one line of base64."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from groundup.record.curve import Curve, bucket_means, mean_of, thin
from groundup.record.read import MEASURES
from groundup.reports.settings import Cell, Study

# For the whole page: 12 bytes each, and half as many again for smoothing. 500 runs get some hundred points a curve,
# a few runs more than a screen has pixels.
_POINTS = 180_000
_MOST_OF_A_CURVE = 2000
_FEWEST_OF_A_CURVE = 40
# Okabe & Ito's colours, which people of all kinds of colour vision tell apart, those that show on white and black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash", "dot", "dashdot")
INK = "ink"
"""The colour of text, which is the baseline's."""
MOST_LINES = 12
"""Cells with a colour of their own at first; more cannot be told apart."""


@dataclass
class Line:
    """A curve of a cell: of one seed, or the mean over several."""

    cell: int
    seed: int | None
    """None for the mean."""
    measure: str
    curve: Curve
    tokens_per_step: float
    flops_per_token: float | None


def lines_of(study: Study) -> list[Line]:
    """All curves of a study: of every run, and of every cell with several seeds the mean."""
    found = []
    for place, cell in enumerate(study.cells):
        for measure in MEASURES:
            runs = [run for run in cell.runs if measure in run.curves]
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
    """Colour and dash of each cell; the baseline has the colour of text."""
    shown = shown_cells(study)
    # Those that are drawn first choose first: they are to be told apart.
    order = [cell for cell in shown if cell is not study.baseline] + [c for c in study.cells if c not in shown]
    styles = {
        id(cell): (COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)])
        for number, cell in enumerate(order)
    }
    return [(INK, "solid") if cell is study.baseline else styles[id(cell)] for cell in study.cells]


def shown_cells(study: Study) -> list[Cell]:
    """Cells whose curves are drawn at first: all of them, or the baseline and the lowest."""
    if len(study.cells) <= MOST_LINES:
        return study.cells
    ranked = [cell for cell, _ in study.ranked][:MOST_LINES]
    if study.baseline is not None and study.baseline not in ranked:
        ranked = [study.baseline, *ranked[: MOST_LINES - 1]]
    return [cell for cell in study.cells if cell in ranked] or study.cells[:MOST_LINES]


def pack(studies: list[list[Line]]) -> tuple[list[list[dict[str, Any]]], str]:
    """Descriptions of the curves, and all their numbers as base64 of zlib of 32-bit floats.

    A description says how many points of the curve follow in the numbers, as steps, values and seconds, and then how
    many means of stretches, from which the page smooths (0: from the points themselves). Bits per byte are mostly the
    validation loss times a constant of the text; then only the constant is kept.
    """
    ratios = [_bits_ratios(lines) for lines in studies]
    kept = [
        [line for line in lines if not (line.measure == "val_bpb" and (line.cell, line.seed) in ratio)]
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
            about: dict[str, Any] = {"c": line.cell, "m": line.measure, "n": len(points.steps)}
            about |= {"s": line.seed} if line.seed is not None else {}
            about |= {"k": len(means.steps)} if thinned else {}
            about |= {"t": float(f"{line.tokens_per_step:.6g}")} if np.isfinite(line.tokens_per_step) else {}
            about |= {"f": float(f"{line.flops_per_token:.6g}")} if line.flops_per_token else {}
            if line.measure == "val_loss" and (line.cell, line.seed) in ratio:
                about["b"] = float(f"{ratio[line.cell, line.seed]:.9g}")
            described.append(about)
        descriptions.append(described)
    flat = np.concatenate(numbers).astype("<f4") if numbers else np.zeros(0, "<f4")
    return descriptions, base64.b64encode(zlib.compress(flat.tobytes(), 6)).decode("ascii")


def _share(lengths: list[int]) -> int:
    """Points that a curve may have, so that all of them keep to the page's: short curves leave theirs to the long."""
    left = _POINTS
    for place, length in enumerate(lengths):
        fair = left // (len(lengths) - place)
        if length > fair:
            return max(_FEWEST_OF_A_CURVE, min(_MOST_OF_A_CURVE, fair))
        left -= length
    return _MOST_OF_A_CURVE


def _bits_ratios(lines: list[Line]) -> dict[tuple[int, int | None], float]:
    losses = {(line.cell, line.seed): line.curve for line in lines if line.measure == "val_loss"}
    found = {}
    for line in lines:
        loss = losses.get((line.cell, line.seed)) if line.measure == "val_bpb" else None
        if loss is None or not np.array_equal(loss.steps, line.curve.steps) or np.any(loss.values <= 0):
            continue
        ratios = line.curve.values / loss.values
        if np.ptp(ratios) <= 1e-6 * np.max(ratios):
            found[line.cell, line.seed] = float(ratios[0])
    return found
