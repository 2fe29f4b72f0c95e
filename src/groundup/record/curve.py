"""Curves of a run: averaged over seeds, smoothed, and thinned out for drawing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Points = Sequence[tuple[int, float]]
"""Tokens seen and validation loss, in order."""


class Curve(NamedTuple):
    """A measure of a run against its steps, and the clock at each."""

    steps: Floats
    values: Floats
    seconds: Floats


def smooth(values: Floats, share: float) -> Floats:
    """Each value's mean with its neighbours: a centred window over this share of the curve, cut off at its ends.

    Args:
        share: 0 leaves the curve as it is.
    """
    count = len(values)
    half = int(share * count / 2)
    if half == 0 or count == 0:
        return values
    place = np.arange(count)
    first, after = np.maximum(place - half, 0), np.minimum(place + half + 1, count)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray((sums[after] - sums[first]) / (after - first))


def thin(curve: Curve, most: int) -> Curve:
    """At most so many points that draw the same curve: the lowest and the highest of each of most / 2 stretches.

    Spikes stay; the first and the last point do too.
    """
    count = len(curve.steps)
    if count <= most:
        return curve
    edges = np.linspace(1, count - 1, max(1, (most - 2) // 2) + 1).astype(int)
    padded, lengths = _stretches(curve.values, edges)
    inside = np.arange(padded.shape[1]) < lengths[:, None]
    lowest = edges[:-1] + np.argmin(np.where(inside, padded, np.inf), axis=1)
    highest = edges[:-1] + np.argmax(np.where(inside, padded, -np.inf), axis=1)
    keep = np.unique(np.concatenate([[0], lowest, highest, [count - 1]]))
    return Curve(curve.steps[keep], curve.values[keep], curve.seconds[keep])


def bucket_means(curve: Curve, most: int) -> Curve:
    """At most so many points, each the mean of its stretch: what smoothing starts from."""
    count = len(curve.steps)
    if count <= most:
        return curve
    edges = np.linspace(0, count, most + 1).astype(int)
    return Curve(*(np.add.reduceat(column, edges[:-1]) / np.diff(edges) for column in curve))


def _stretches(values: Floats, edges: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    """Row by row the values between two edges, and how many of a row are its own."""
    lengths = np.diff(edges)
    place = edges[:-1, None] + np.arange(lengths.max())
    return values[np.minimum(place, len(values) - 1)], lengths


def with_whole_end(curve: Curve) -> Curve:
    """A curve of means over the steps since the point before, whose last point is a mean of no fewer than half as many
    steps as others: where it was of fewer, it is joined with the one before it."""
    if len(curve.steps) < 3:
        return curve
    before, last = np.diff(curve.steps)[-2:]
    if last >= before / 2:
        return curve
    joined = (before * curve.values[-2] + last * curve.values[-1]) / (before + last)
    values = np.append(curve.values[:-2], joined)
    return Curve(np.delete(curve.steps, -2), values, np.delete(curve.seconds, -2))


def mean_of(curves: Sequence[Curve]) -> Curve | None:
    """The mean over seeds, at the steps that all of them have, and at their ends; None where they have no step in
    common."""
    ends = [tuple(column[-1] for column in curve) for curve in curves]
    steps = curves[0].steps
    if not all(np.array_equal(curve.steps, steps) for curve in curves[1:]):
        for curve in curves[1:]:
            steps = np.intersect1d(steps, curve.steps)
        curves = [Curve(*(column[np.isin(curve.steps, steps)] for column in curve)) for curve in curves]
    if len(steps) == 0:
        return None
    mean = Curve(
        steps,
        np.mean([curve.values for curve in curves], axis=0),
        np.mean([curve.seconds for curve in curves], axis=0),
    )
    if min(end[0] for end in ends) <= steps[-1]:
        return mean
    # Runs that the clock ends have each a last step of their own.
    return Curve(*(np.append(column, end) for column, end in zip(mean, np.mean(ends, axis=0), strict=True)))


def tokens_to_reach(curve: Points, loss: float) -> float | None:
    """Tokens at which the curve, straight between its points, first comes down to the loss; None if it never does."""
    before: tuple[int, float] | None = None
    for tokens, value in curve:
        if value <= loss:
            if before is None:
                return tokens
            return before[0] + (before[1] - loss) / (before[1] - value) * (tokens - before[0])
        before = tokens, value
    return None


def mean_curve(curves: Sequence[Points]) -> list[tuple[int, float]]:
    """Point by point; the curves have the same tokens."""
    return [(points[0][0], statistics.mean(value for _, value in points)) for points in zip(*curves, strict=True)]
