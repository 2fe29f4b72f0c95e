"""Curves keep what a reader looks for when they are smoothed, thinned out and averaged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.experiments.curves import Curve, bucket_means, mean_curve, mean_of, smooth, thin, tokens_to_reach

VALUES = st.lists(st.floats(-100, 100), min_size=1, max_size=400)


def curve_of(values: list[float]) -> Curve:
    steps = np.arange(len(values), dtype=float)
    return Curve(steps, np.array(values), 2 * steps)


@given(VALUES, st.sampled_from([0.0, 0.01, 0.1, 0.2, 1.0]))
def test_smoothing_is_the_mean_of_the_window(values, share):
    found, half = smooth(np.array(values), share), int(share * len(values) / 2)
    expected = [np.mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    assert found == pytest.approx(expected, abs=1e-9)


@given(VALUES, st.integers(4, 100))
def test_thinning_keeps_extremes_and_ends(values, most):
    whole, thinned = curve_of(values), thin(curve_of(values), most)
    assert len(thinned.steps) <= most
    assert thinned.steps[0] == 0
    assert thinned.steps[-1] == len(values) - 1
    assert thinned.values.max() == whole.values.max()
    assert thinned.values.min() == whole.values.min()
    assert np.all(np.diff(thinned.steps) > 0)
    assert np.array_equal(whole.values[thinned.steps.astype(int)], thinned.values)


@given(VALUES, st.integers(2, 100))
def test_means_of_stretches_keep_the_mean(values, most):
    found = bucket_means(curve_of(values), most)
    assert len(found.steps) == min(most, len(values))
    if len(values) % most == 0:
        assert found.values.mean() == pytest.approx(np.mean(values), abs=1e-9)


def test_the_mean_over_seeds_is_at_the_steps_they_share():
    a = Curve(np.array([0.0, 10, 20]), np.array([4.0, 2, 1]), np.array([0.0, 1, 2]))
    b = Curve(np.array([0.0, 20, 30]), np.array([2.0, 3, 9]), np.array([0.0, 4, 5]))
    mean = mean_of([a, b])
    assert mean.steps.tolist() == [0, 20]
    assert mean.values.tolist() == [3, 2]
    assert mean.seconds.tolist() == [0, 3]
    assert mean_of([a, Curve(*(np.array([5.0]),) * 3)]) is None


def test_tokens_that_a_loss_takes():
    curve = [(0, 4.0), (100, 2.0), (200, 1.0)]
    assert tokens_to_reach(curve, 3.0) == 50
    assert tokens_to_reach(curve, 4.5) == 0
    assert tokens_to_reach(curve, 0.5) is None
    assert mean_curve([curve, [(0, 2.0), (100, 2.0), (200, 3.0)]]) == [(0, 3.0), (100, 2.0), (200, 2.0)]
