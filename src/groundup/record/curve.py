"""Curves of a run: averaging over seeds, smoothing, and thinning for plots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Curve(NamedTuple):
    """A measure against steps, with the elapsed seconds at each."""

    steps: Floats
    values: Floats
    seconds: Floats


def smooth(values: Floats, share: float) -> Floats:
    """Centred moving average over a share of the curve; the window is cut off at the ends.

    Args:
        share: window length as a share of the curve; 0 leaves the curve unchanged.
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
    """Thin a curve to at most `most` points that draw the same line: minimum and maximum of each of most / 2 buckets.

    Spikes, the first and the last point are kept.
    """
    count = len(curve.steps)
    if count <= most:
        return curve
    edges = np.linspace(1, count - 1, max(1, (most - 2) // 2) + 1).astype(int)
    padded, lengths = _buckets(curve.values, edges)
    inside = np.arange(padded.shape[1]) < lengths[:, None]
    lowest = edges[:-1] + np.argmin(np.where(inside, padded, np.inf), axis=1)
    highest = edges[:-1] + np.argmax(np.where(inside, padded, -np.inf), axis=1)
    keep = np.unique(np.concatenate([[0], lowest, highest, [count - 1]]))
    return Curve(curve.steps[keep], curve.values[keep], curve.seconds[keep])


def bucket_means(curve: Curve, most: int) -> Curve:
    """At most `most` points, each the mean of a bucket; the input of smoothing."""
    count = len(curve.steps)
    if count <= most:
        return curve
    edges = np.linspace(0, count, most + 1).astype(int)
    return Curve(*(np.add.reduceat(column, edges[:-1]) / np.diff(edges) for column in curve))


def _buckets(values: Floats, edges: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    """The values of each bucket as a row, padded to equal length, and the length of each."""
    lengths = np.diff(edges)
    place = edges[:-1, None] + np.arange(lengths.max())
    return values[np.minimum(place, len(values) - 1)], lengths


def with_whole_end(curve: Curve) -> Curve:
    """Merge the last point of a curve of means into the one before it if it averages fewer than half as many steps.

    Each point is the mean over the steps since the previous point. The merged point is weighted by steps.
    """
    if len(curve.steps) < 3:
        return curve
    before, last = np.diff(curve.steps)[-2:]
    if last >= before / 2:
        return curve
    joined = (before * curve.values[-2] + last * curve.values[-1]) / (before + last)
    values = np.append(curve.values[:-2], joined)
    return Curve(np.delete(curve.steps, -2), values, np.delete(curve.seconds, -2))


def mean_of(curves: Sequence[Curve]) -> Curve | None:
    """Mean over seeds at the steps that all curves share, and of their last points; None without a common step."""
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
    # Runs with a time limit end at different steps.
    return Curve(*(np.append(column, end) for column, end in zip(mean, np.mean(ends, axis=0), strict=True)))
