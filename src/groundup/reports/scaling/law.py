"""Fit of L(N, D) = E + A / N^alpha + B / D^beta to losses, with bootstrap intervals (Hoffmann et al. 2022, approach 3).

The logarithm of the loss is compared by a Huber loss of width 1e-3, and minimized by BFGS from a grid of starts. As
Besiroglu et al. (2024) found for the published fit, an optimizer that stops early gives parameters that are far off,
and intervals that are too narrow. So every start is minimized until the objective falls no further, and the objective
is a sum, not a mean, whose gradient would be small everywhere. With N and D in units of their geometric means, the
terms of a fit are of one size, and the grid of starts does not depend on the runs.

All starts, and all fits of the bootstrap, are minimized at once: arrays have a leading axis of fits.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HUBER = 1e-3
"""Width of the Huber loss of log(loss), as in the paper."""
LEVEL = 0.95
"""Level of the intervals."""
DRAWS = 400
"""Fits of the bootstrap."""
_EXPONENTS = (0.15, 0.4, 0.8, 1.5)
_SHARES = (0.1, 0.35, 0.75)
_MOST_STEPS = 400
_STARTS_OF_A_DRAW = 2
_FLAT = 1e-7
_LEAST_SHARE = 0.1
"""Of the mean loss that each part of a draw's start has."""
_HIGHEST = 600.0
"""Largest exponent of e: draws of the bootstrap that the points do not determine can have any terms."""
_UNSURE = 3
"""Ratio of the ends of an exponent's interval from which on it counts as unknown."""


@dataclass(frozen=True)
class Law:
    """Laws fitted to one set of points: the first to the points themselves, the others to draws of the bootstrap.

    The terms are those that vary among the points: "N", "D", or both. Logarithms are natural.
    """

    terms: tuple[str, ...]
    e: Floats
    """log E, of shape (fits,)."""
    coefficients: Floats
    """log A, log B, of shape (fits, terms)."""
    exponents: Floats
    """alpha, beta, of shape (fits, terms)."""
    residual: float
    """Root mean square of the relative error of the loss, over the points."""

    def loss(self, **sizes: Floats) -> Floats:
        """The loss of every fit, for sizes by term that broadcast with (fits, …).

        Args:
            sizes: N and D, as far as they are terms of the law.
        """
        shape = (len(self.e),) + (1,) * (max(np.ndim(value) for value in sizes.values()) - 1)
        total = _exp(self.e).reshape(shape)
        for k, term in enumerate(self.terms):
            coefficient, exponent = self.coefficients[:, k].reshape(shape), self.exponents[:, k].reshape(shape)
            total = total + _exp(coefficient - exponent * np.log(sizes[term]))
        return total

    @property
    def unsure(self) -> list[str]:
        """Names of the exponents that the points hardly determine."""
        found = []
        for name in ("alpha", "beta"):
            if (values := self.values().get(name)) is not None:
                _, low, high = interval(values)
                found += [name] if low <= 0 or high > _UNSURE * low else []
        return found

    def values(self) -> dict[str, Floats]:
        """E, A, alpha, B and beta of every fit, those of the terms it has."""
        names = {"N": ("A", "alpha"), "D": ("B", "beta")}
        found = {"E": _exp(self.e)}
        for k, term in enumerate(self.terms):
            coefficient, exponent = names[term]
            found |= {coefficient: _exp(self.coefficients[:, k]), exponent: self.exponents[:, k]}
        return found


def _exp(values: Floats) -> Floats:
    return np.exp(np.minimum(values, _HIGHEST))


def interval(values: Floats) -> tuple[float, float, float]:
    """The value of the fit to the points themselves, and the bootstrap's percentile interval, which includes it."""
    first, low, high = float(values[0]), *np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return first, min(first, float(low)), max(first, float(high))


def fit(sizes: dict[str, Floats], losses: Floats, groups: NDArray[np.int64], *, seed: int = 0) -> Law:
    """Fit the law to points.

    The bootstrap draws runs, not points: the points of one run's curve are not independent. A draw is a weight for each
    run, from a Dirichlet distribution (Rubin 1981): with few runs, a draw with replacement often has too few different
    ones to determine the law. The distribution is wider than Rubin's by runs / (runs - parameters), since the fit
    follows the noise of few runs.

    Args:
        sizes: N, D or both, of each point, by term.
        losses: of each point.
        groups: number of the run of each point, from 0; there are more runs than the law has parameters.
        seed: of the bootstrap.
    """
    terms = tuple(sizes)
    logs = np.stack([np.log(sizes[term]) for term in terms], axis=1)
    centre, target = logs.mean(axis=0), np.log(losses)
    x = logs - centre
    ones = np.ones((1, len(losses)))
    found, objective = _minimize(_starts(len(terms), float(target.mean())), x, target, ones)
    order = np.argsort(objective)
    best = found[order[0]]
    # A draw may have its minimum where the points have another one.
    tried = _distinct(found[order], _STARTS_OF_A_DRAW)
    # A part that vanished has no gradient, and would stay at 0 in every draw.
    raised = tried.copy()
    parts = [0, *range(1, best.shape[0], 2)]
    raised[:, parts] = np.maximum(raised[:, parts], target.mean() + np.log(_LEAST_SHARE))
    tried = _distinct(np.concatenate([tried, raised]), 2 * _STARTS_OF_A_DRAW)
    rng = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    spread = (count - best.shape[0]) / count
    drawn = count * rng.dirichlet(np.full(count, spread), size=DRAWS)[:, groups]
    begin = np.repeat(tried[None], DRAWS, axis=0).reshape(DRAWS * len(tried), -1)
    fits, values = _minimize(begin, x, target, np.repeat(drawn, len(tried), axis=0))
    fits, values = fits.reshape(DRAWS, len(tried), -1), values.reshape(DRAWS, len(tried))
    draws = np.concatenate([best[None], fits[np.arange(DRAWS), values.argmin(axis=1)]])
    e, inner, exponents = draws[:, 0], draws[:, 1::2], draws[:, 2::2]
    residual = _predicted(best[None], x)[0][0] - target
    return Law(terms, e, inner + exponents * centre, exponents, float(np.sqrt(np.mean(residual**2))))


def _starts(terms: int, level: float) -> Floats:
    """Rows of e, then coefficient and exponent of each term: shares of the mean loss, and exponents."""
    rows = []
    for exponents in itertools.product(_EXPONENTS, repeat=terms):
        for shares in itertools.product(_SHARES, repeat=terms + 1):
            parts = level + np.log(np.array(shares) / sum(shares))
            inner = [value for pair in zip(parts[1:], exponents, strict=True) for value in pair]
            rows.append([parts[0], *inner])
    return np.array(rows)


def _distinct(rows: Floats, most: int) -> Floats:
    """The first rows that differ."""
    kept: list[Floats] = []
    for row in rows:
        if all(np.abs(row - other).max() > 0.05 for other in kept):
            kept.append(row)
        if len(kept) == most:
            break
    return np.array(kept)


def _predicted(parameters: Floats, x: Floats) -> tuple[Floats, Floats]:
    """log L, of shape (fits, points), and the share of each part in L, of shape (fits, points, 1 + terms)."""
    parts = np.concatenate(
        [
            np.broadcast_to(parameters[:, None, :1], (len(parameters), len(x), 1)),
            parameters[:, None, 1::2] - parameters[:, None, 2::2] * x,
        ],
        axis=2,
    )
    highest = parts.max(axis=2, keepdims=True)
    powers = np.exp(parts - highest)
    total = powers.sum(axis=2, keepdims=True)
    return (highest + np.log(total))[..., 0], powers / total


def _objective(parameters: Floats, x: Floats, target: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """The weighted sum of Huber losses of each fit in units of the width, and its gradient."""
    predicted, shares = _predicted(parameters, x)
    off = (predicted - target) / HUBER
    outside = np.abs(off) > 1
    value = (weights * np.where(outside, np.abs(off) - 0.5, 0.5 * off**2)).sum(axis=1)
    slope = weights * np.clip(off, -1, 1) / HUBER
    gradient = np.empty_like(parameters)
    by_part = slope[..., None] * shares
    gradient[:, 0] = by_part[..., 0].sum(axis=1)
    gradient[:, 1::2] = by_part[..., 1:].sum(axis=1)
    gradient[:, 2::2] = -(by_part[..., 1:] * x).sum(axis=1)
    return value, gradient


def _minimize(begin: Floats, x: Floats, target: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """BFGS with a backtracking line search, for every row at once; rows that are done leave the batch."""
    at, width = begin.copy(), begin.shape[1]
    weights = np.broadcast_to(weights, (len(at), weights.shape[1]))
    values, gradients = _objective(at, x, target, weights)
    inverse = np.repeat(np.eye(width)[None], len(at), axis=0) * 1e-6
    active = np.arange(len(at))
    for _ in range(_MOST_STEPS):
        g = gradients[active]
        step = -np.einsum("bij,bj->bi", inverse[active], g)
        slope = (step * g).sum(axis=1)
        uphill = slope >= 0
        step[uphill], inverse[active[uphill]] = -1e-6 * g[uphill], np.eye(width) * 1e-6
        # No step of more than a factor of e: far from the minimum the quadratic model is worth little.
        step /= np.maximum(1.0, np.abs(step).max(axis=1, keepdims=True))
        slope = (step * g).sum(axis=1)
        moved, new_values, new_gradients = _search(at[active], step, slope, values[active], x, target, weights[active])
        taken = new_values < values[active]
        change, turn = moved - at[active], new_gradients - g
        gain = values[active] - new_values
        at[active[taken]], values[active[taken]] = moved[taken], new_values[taken]
        gradients[active[taken]] = new_gradients[taken]
        curved = taken & ((change * turn).sum(axis=1) > 1e-12)
        inverse[active[curved]] = _updated(inverse[active[curved]], change[curved], turn[curved])
        # A row without progress begins again with the steepest descent, and is done if that fails too.
        reset = np.abs(inverse[active] - np.eye(width) * 1e-6).max(axis=(1, 2)) == 0
        stuck = ~taken | (gain < _FLAT)
        inverse[active[stuck]] = np.eye(width) * 1e-6
        active = active[~(stuck & reset)]
        if not len(active):
            break
    return at, values


def _search(
    at: Floats, step: Floats, slope: Floats, value: Floats, x: Floats, target: Floats, weights: Floats
) -> tuple[Floats, Floats, Floats]:
    """Halve each row's step until the objective falls enough (Armijo)."""
    length = np.ones(len(at))
    moved = at + step
    new, gradient = _objective(moved, x, target, weights)
    for _ in range(25):
        short = np.flatnonzero(~(new <= value + 1e-4 * length * slope))
        if not len(short):
            break
        length[short] /= 2
        moved[short] = at[short] + length[short, None] * step[short]
        new[short], gradient[short] = _objective(moved[short], x, target, weights[short])
    return moved, new, gradient


def _updated(inverse: Floats, change: Floats, turn: Floats) -> Floats:
    """The BFGS update of the inverse Hessians."""
    rho = 1 / (change * turn).sum(axis=1)[:, None, None]
    left = np.eye(change.shape[1]) - rho * change[:, :, None] * turn[:, None, :]
    return left @ inverse @ left.transpose(0, 2, 1) + rho * change[:, :, None] * change[:, None, :]
