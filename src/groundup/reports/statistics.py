"""Statistics over a few seeds: means with confidence intervals, tests against a baseline, and their power.

Pure functions over floats; only the distributions come from scipy. Everywhere, confidence intervals are those of 95 %,
and a difference is statistically significant at p < 0.01.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from groundup.errors import MissingExtraError

CONFIDENCE = 0.95
"""Level of the confidence intervals."""
ALPHA = 0.01
"""Significance level: a difference is significant if p is below it."""
POWER = 0.8
"""Power of the test at the smallest effect that is reported."""
SEEDS_FOR_PAIRS = 5
"""Runs of equal seeds are compared in pairs from this number of seeds on. With three seeds, a paired test has two
degrees of freedom and needs |t| > 9.9 at ALPHA, where Welch's test with four needs 4.6. The noise that runs of one seed
share does not make up for that."""


class Estimate(NamedTuple):
    """A mean over seeds. One seed has no deviation and no confidence interval."""

    mean: float
    size: int
    deviation: float | None = None
    """Sample standard deviation."""
    low: float | None = None
    """Lower end of the 95 % confidence interval of the mean."""
    high: float | None = None

    @property
    def reach(self) -> float | None:
        """Half the confidence interval: the ± in a table."""
        return None if self.high is None else self.high - self.mean


class Difference(NamedTuple):
    """One mean minus another."""

    mean: float
    low: float
    """Lower end of the 95 % confidence interval of the difference."""
    high: float
    p: float
    """Two-sided p-value."""
    freedom: float
    """Degrees of freedom."""
    error: float
    """Standard error of the difference."""
    test: str
    """Name of the test."""
    comparisons: int = 1
    """Number of comparisons that Holm's correction is made for."""

    @property
    def smallest_effect(self) -> float:
        """The smallest true difference that the test detects with POWER at ALPHA, if it comes first in Holm's order."""
        return smallest_effect(self.error, self.freedom, alpha=ALPHA / self.comparisons)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and Student's confidence interval of one or more values (Student 1908)."""
    mean, size = statistics.fmean(values), len(values)
    if size < 2:
        return Estimate(mean, size)
    deviation = statistics.stdev(values)
    reach = t_of(1 - CONFIDENCE, size - 1) * deviation / math.sqrt(size)
    return Estimate(mean, size, deviation, mean - reach, mean + reach)


def welch(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Welch's t-test of ours minus theirs, two or more values each, with unequal variances (Welch 1947).

    The degrees of freedom are Satterthwaite's.
    """
    parts = [statistics.variance(values) / len(values) for values in (ours, theirs)]
    mean, error = statistics.fmean(ours) - statistics.fmean(theirs), math.sqrt(sum(parts))
    freedom = float(len(ours) + len(theirs) - 2)
    if error > 0:
        # Ratios, because the square of a very small variance would underflow to 0.
        shares = [part / sum(parts) for part in parts]
        freedom = 1 / sum(share**2 / (len(v) - 1) for share, v in zip(shares, (ours, theirs), strict=True))
    return _difference(mean, error, freedom, "Welch's t-test")


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Paired t-test of ours minus theirs, two or more pairs: runs of one seed see the same data in the same order."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return _difference(statistics.fmean(differences), error, float(len(differences) - 1), "paired t-test")


def compare(ours: dict[int, float], theirs: dict[int, float]) -> Difference | None:
    """Compare values by seed: paired if both have the same seeds, and enough of them, otherwise Welch's test.

    None if one side has one seed. The choice of the test depends on the seeds, never on the values.
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    if ours.keys() == theirs.keys() and len(ours) >= SEEDS_FOR_PAIRS:
        return paired([ours[seed] for seed in ours], [theirs[seed] for seed in ours])
    return welch(list(ours.values()), list(theirs.values()))


def _difference(mean: float, error: float, freedom: float, test: str) -> Difference:
    if error == 0:  # zero variance: equal, or different with certainty
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0, freedom, error, test)
    reach = t_of(1 - CONFIDENCE, freedom) * error
    return Difference(mean, mean - reach, mean + reach, two_sided_p(mean / error, freedom), freedom, error, test)


def two_sided_p(t: float, freedom: float) -> float:
    """P(|T| >= |t|) for Student's t distribution."""
    return min(1.0, 2 * float(_special().stdtr(freedom, -abs(t))))


def t_of(p: float, freedom: float) -> float:
    """The t with this two-sided p."""
    return -float(_special().stdtrit(freedom, p / 2))


def smallest_effect(error: float, freedom: float, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """The true difference that a test at alpha detects with this power, given the observed standard error.

    Under that difference the statistic follows the noncentral t distribution. Its tail on the wrong side is negligible
    at such a power. The difference is found by bisection. Exact for pairs. For Welch's test, whose degrees of freedom
    are estimates, the true power can be some points lower.
    """
    return error * _shift(freedom, alpha, power)


@functools.lru_cache(maxsize=4096)
def _shift(freedom: float, alpha: float, power: float) -> float:
    """The smallest effect in standard errors."""
    special, threshold = _special(), t_of(alpha, freedom)

    def found(shift: float) -> float:
        return 1 - float(special.nctdtr(freedom, shift, threshold))

    low, high = 0.0, 1.0
    while found(high) < power:
        low, high = high, 2 * high
    while high - low > 1e-7 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) >= power else (middle, high)
    return high


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for several comparisons with one baseline, to bound the family-wise error (Holm 1979).

    The smallest is multiplied by their number n, the next by n - 1, and so on; the results are made non-decreasing.
    """
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = highest
    return adjusted


def _special() -> Any:
    try:
        from scipy import special
    except ImportError:
        raise MissingExtraError.for_package("scipy", "report", "an interval or a test over seeds") from None
    return special
