"""The statistics agree with scipy's, and claim nothing that the seeds do not show."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

stats = pytest.importorskip("scipy.stats")

from groundup.reports.statistics import (  # noqa: E402 - after the check that scipy is installed
    ALPHA,
    POWER,
    compare,
    estimate,
    holm,
    paired,
    smallest_effect,
    t_of,
    two_sided_p,
    welch,
)  # fmt: skip

LOSSES = st.lists(st.floats(0.5, 11, width=32), min_size=2, max_size=12)


def spread(values: list[float]) -> bool:
    return max(values) - min(values) > 1e-3


@given(LOSSES.filter(spread))
def test_the_interval_is_scipys(values):
    found = estimate(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=stats.sem(values))
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(high)
    assert found.mean + found.reach == pytest.approx(high)


def test_one_seed_has_no_interval():
    found = estimate([1.5])
    assert found == (1.5, 1, None, None, None)
    assert found.reach is None


@given(LOSSES.filter(spread), LOSSES.filter(spread))
def test_welch_is_scipys(ours, theirs):
    found, oracle = welch(ours, theirs), stats.ttest_ind(ours, theirs, equal_var=False)
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-6, abs=1e-12)
    assert found.freedom == pytest.approx(oracle.df)
    interval = oracle.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


@given(st.lists(st.tuples(st.floats(0.5, 11, width=32), st.floats(0.5, 11, width=32)), min_size=2, max_size=12))
def test_paired_is_scipys(pairs):
    ours, theirs = map(list, zip(*pairs, strict=True))
    if not spread([a - b for a, b in pairs]):
        return
    found, oracle = paired(ours, theirs), stats.ttest_rel(ours, theirs)
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-6, abs=1e-12)
    interval = oracle.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


@given(LOSSES.filter(spread), LOSSES.filter(spread))
def test_a_difference_turned_round_is_its_negative(ours, theirs):
    there, back = welch(ours, theirs), welch(theirs, ours)
    assert there.mean == pytest.approx(-back.mean)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p == pytest.approx(back.p)
    assert 0 <= there.p <= 1


def test_values_that_do_not_scatter_are_equal_or_different():
    assert welch([1.0, 1.0], [1.0, 1.0]).p == 1
    assert welch([1.0, 1.0], [2.0, 2.0]).p == 0
    assert paired([1.0, 2.0], [1.0, 2.0])[:4] == (0, 0, 0, 1)


@pytest.mark.parametrize("freedom", [1, 2, 3.7, 10, 1000])
def test_t_and_p_are_inverse(freedom):
    for p in (0.5, 0.05, 0.01, 1e-6):
        assert two_sided_p(t_of(p, freedom), freedom) == pytest.approx(p)


@pytest.mark.parametrize("freedom", [2, 4, 8.5, 30])
def test_the_smallest_effect_has_the_power_that_is_stated(freedom):
    """Against scipy's noncentral t distribution."""
    effect, threshold = smallest_effect(1.0, freedom), stats.t.isf(ALPHA / 2, freedom)
    power = stats.nct.sf(threshold, freedom, effect)
    assert power == pytest.approx(POWER, abs=1e-6)
    assert smallest_effect(2.5, freedom) == pytest.approx(2.5 * effect)


def test_among_several_comparisons_a_larger_effect_is_needed():
    difference = welch([1.41, 1.39, 1.43], [1.4, 1.42, 1.39])
    for comparisons in (1, 6):
        found = difference._replace(comparisons=comparisons)
        threshold = stats.t.isf(ALPHA / comparisons / 2, found.freedom)
        power = stats.nct.sf(threshold, found.freedom, found.smallest_effect / found.error)
        assert power == pytest.approx(POWER, abs=1e-6)


def test_experiments_of_the_smallest_effect_find_it_four_times_in_five():
    rng, deviation, seeds = random.Random(1), 0.01, 5
    effect = smallest_effect(deviation / math.sqrt(seeds), seeds - 1)
    found = 0
    for _ in range(2000):
        theirs = [rng.gauss(1.4, 0.1) for _ in range(seeds)]
        ours = [value + effect + rng.gauss(0, deviation) for value in theirs]
        found += paired(ours, theirs).p < ALPHA
    assert found / 2000 == pytest.approx(POWER, abs=0.03)


def test_where_there_is_no_difference_one_in_a_hundred_is_claimed():
    rng = random.Random(2)
    claimed = sum(
        welch([rng.gauss(1, 0.01) for _ in range(3)], [rng.gauss(1, 0.01) for _ in range(3)]).p < ALPHA
        for _ in range(4000)
    )
    assert claimed / 4000 < 1.5 * ALPHA


@pytest.mark.parametrize(
    ("ps", "adjusted"),
    [
        ([], []),
        ([0.02], [0.02]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # worked out by hand; R's p.adjust gives the same
        ([0.5, 0.9], [1.0, 1.0]),
    ],
)
def test_holms_correction(ps, adjusted):
    assert holm(ps) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_raises_and_keeps_the_order(ps):
    found = holm(ps)
    assert all(p <= q <= 1 for p, q in zip(ps, found, strict=True))
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    assert all(found[a] <= found[b] for a, b in itertools.pairwise(order))


def test_the_test_follows_from_the_seeds():
    few = {seed: 1.4 + 0.001 * seed for seed in range(3)}
    many = {seed: 1.4 + 0.001 * seed**2 for seed in range(5)}
    assert compare(few, {seed: 1.5 + 0.002 * seed for seed in range(3)}).test == "Welch's t-test"
    assert compare(many, {seed: 1.5 + 0.002 * seed for seed in range(5)}).test == "paired t-test"
    assert compare(many, {seed + 1: 1.5 + 0.002 * seed for seed in range(5)}).test == "Welch's t-test"
    assert compare(few, {0: 1.5}) is None
