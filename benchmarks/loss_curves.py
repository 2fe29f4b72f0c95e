"""Loss curves by tokens: their mean, and the tokens to reach a loss."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

Points = Sequence[tuple[int, float]]
"""(tokens, validation loss) in ascending order of tokens."""


def tokens_to_reach(curve: Points, loss: float) -> float | None:
    """Number of tokens at which the linearly interpolated curve first reaches the loss; None if it never does."""
    before: tuple[int, float] | None = None
    for tokens, value in curve:
        if value <= loss:
            if before is None:
                return tokens
            return before[0] + (before[1] - loss) / (before[1] - value) * (tokens - before[0])
        before = tokens, value
    return None


def mean_curve(curves: Sequence[Points]) -> list[tuple[int, float]]:
    """Mean of curves with equal tokens, point by point."""
    return [(points[0][0], statistics.mean(value for _, value in points)) for points in zip(*curves, strict=True)]
