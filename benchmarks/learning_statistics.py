"""What `train_learning.py` computes from losses: paired comparison over seeds, and the tokens a curve takes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

Curve = Sequence[tuple[int, float]]
"""Tokens seen and validation loss, in order."""


class Paired(NamedTuple):
    """Differences of pairs, by Student's t test."""

    mean: float
    deviation: float
    """Standard deviation of the differences."""
    low: float
    """Of the 95 % confidence interval of the mean."""
    high: float
    p: float
    """Two-sided: how probable a mean so far from 0 is where there is no difference."""


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired:
    """Ours minus theirs, for two pairs or more (Student 1908)."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean, deviation = statistics.mean(differences), statistics.stdev(differences)
    error, freedom = deviation / math.sqrt(len(differences)), len(differences) - 1
    if error == 0:
        return Paired(mean, deviation, mean, mean, 1.0 if mean == 0 else 0.0)
    reach = error * _t_of(0.05, freedom)
    return Paired(mean, deviation, mean - reach, mean + reach, two_sided_p(mean / error, freedom))


def two_sided_p(t: float, freedom: int) -> float:
    """P(|T| >= |t|) for Student's distribution with so many degrees of freedom (Abramowitz & Stegun 26.7.3-4)."""
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= k / (k + 1) * cosine**2
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return max(0.0, 1 - inside)


def _t_of(p: float, freedom: int) -> float:
    low, high = 0.0, 1e6
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, freedom) > p else (low, middle)
    return high


def tokens_to_reach(curve: Curve, loss: float) -> float | None:
    """Tokens at which the curve, straight between its points, first comes down to the loss; None if it never does."""
    before: tuple[int, float] | None = None
    for tokens, value in curve:
        if value <= loss:
            if before is None:
                return tokens
            return before[0] + (before[1] - loss) / (before[1] - value) * (tokens - before[0])
        before = tokens, value
    return None


def mean_curve(curves: Sequence[Curve]) -> list[tuple[int, float]]:
    """Point by point; the curves have the same tokens."""
    return [(points[0][0], statistics.mean(value for _, value in points)) for points in zip(*curves, strict=True)]
