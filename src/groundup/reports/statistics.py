"""What a handful of seeds can say: means with intervals, tests against a baseline, and what would have stayed unseen.

Pure functions over floats. The distributions are scipy's; everything else is short enough to check by hand. Two
numbers hold everywhere: intervals are those of 95 %, and nothing is called a difference at p >= 0.01.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from groundup.errors import MissingExtraError

CONFIDENCE = 0.95
"""Of the intervals."""
ALPHA = 0.01
"""A difference is claimed below this p, and only there."""
POWER = 0.8
"""How often the smallest effect that is named would have been seen."""
SEEDS_FOR_PAIRS = 5
"""From here on runs of equal seeds are compared in pairs. With three, pairs leave two degrees of freedom, which ask for
a t of 9.9 at alpha where Welch's four ask for 4.6: more than the noise that two runs of a seed share makes up for."""


class Estimate(NamedTuple):
    """A mean of several seeds. One seed has no deviation and no interval."""

    mean: float
    size: int
    deviation: float | None = None
    """Sample standard deviation."""
    low: float | None = None
    """Of the 95 % confidence interval of the mean."""
    high: float | None = None

    @property
    def reach(self) -> float | None:
        """Half the interval: the ± of a table."""
        return None if self.high is None else self.high - self.mean


class Difference(NamedTuple):
    """One mean minus another."""

    mean: float
    low: float
    """Of the 95 % confidence interval of the difference."""
    high: float
    p: float
    """Two-sided: how probable a difference so large is where there is none."""
    freedom: float
    error: float
    """Standard error of the difference."""
    test: str
    """Its name, for the sentence."""
    comparisons: int = 1
    """Among how many it is made: of several, only a smaller p counts (Holm)."""

    @property
    def distinguishable(self) -> bool:
        """Whether it may be called a difference at all."""
        return self.p < ALPHA

    @property
    def smallest_effect(self) -> float:
        """The smallest true difference that seeds so many and so noisy would have shown, at alpha and power above,
        were it the first of its comparisons that Holm's correction looks at."""
        return smallest_effect(self.error, self.freedom, alpha=ALPHA / self.comparisons)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and Student's interval of one value or more (Student 1908)."""
    mean, size = statistics.fmean(values), len(values)
    if size < 2:
        return Estimate(mean, size)
    deviation = statistics.stdev(values)
    reach = t_of(1 - CONFIDENCE, size - 1) * deviation / math.sqrt(size)
    return Estimate(mean, size, deviation, mean - reach, mean + reach)


def welch(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Ours minus theirs, two values or more of each, which may scatter differently (Welch 1947).

    The degrees of freedom are Satterthwaite's: fewer than of both together, where one side scatters more.
    """
    parts = [statistics.variance(values) / len(values) for values in (ours, theirs)]
    mean, error = statistics.fmean(ours) - statistics.fmean(theirs), math.sqrt(sum(parts))
    freedom = float(len(ours) + len(theirs) - 2)
    if error > 0:
        # By shares: squares of very small variances would be 0.
        shares = [part / sum(parts) for part in parts]
        freedom = 1 / sum(share**2 / (len(v) - 1) for share, v in zip(shares, (ours, theirs), strict=True))
    return _difference(mean, error, freedom, "Welch's t-test")


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Ours minus theirs, pair by pair, two pairs or more: runs of the same seed saw the same data in the same order."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return _difference(statistics.fmean(differences), error, float(len(differences) - 1), "paired t-test")


def compare(ours: dict[int, float], theirs: dict[int, float]) -> Difference | None:
    """Values by their seeds: paired where both have the same, and enough of them; None where one has but one.

    Which test it is follows from the plan, never from the values.
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    if ours.keys() == theirs.keys() and len(ours) >= SEEDS_FOR_PAIRS:
        return paired([ours[seed] for seed in ours], [theirs[seed] for seed in ours])
    return welch(list(ours.values()), list(theirs.values()))


def _difference(mean: float, error: float, freedom: float, test: str) -> Difference:
    if error == 0:  # nothing scatters: equal, or different beyond doubt
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0, freedom, error, test)
    reach = t_of(1 - CONFIDENCE, freedom) * error
    return Difference(mean, mean - reach, mean + reach, two_sided_p(mean / error, freedom), freedom, error, test)


def two_sided_p(t: float, freedom: float) -> float:
    """P(|T| >= |t|) for Student's distribution with so many degrees of freedom."""
    return min(1.0, 2 * float(_special().stdtr(freedom, -abs(t))))


def t_of(p: float, freedom: float) -> float:
    """The t whose two-sided p is this."""
    return -float(_special().stdtrit(freedom, p / 2))


def smallest_effect(error: float, freedom: float, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """The true difference that a test at alpha finds with this power, its standard error being what was seen.

    Under it the statistic follows the noncentral t distribution, whose tail on the wrong side is nothing where the
    power is that high; the difference is found by bisection. Exact for pairs; Welch's degrees of freedom are estimates
    themselves, and its power comes out some points lower where they happen to be high.
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
    """Values of p for several comparisons with one baseline, so that even one false claim stays rare (Holm 1979).

    The smallest is multiplied by how many there are, the next by one less, and so on; none may be below one before it.
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
