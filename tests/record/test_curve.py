"""Curves keep what a reader looks for when they are smoothed, thinned out and averaged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.record.curve import (
    Curve,
    bucket_means,
    mean_of,
    smooth,
    thin,
    with_whole_end,
)

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


def test_the_mean_of_runs_that_end_where_they_will_has_their_mean_end():
    a = Curve(np.array([0.0, 10, 20, 22]), np.array([4.0, 2, 1, 0.5]), np.array([0.0, 1, 2, 3]))
    b = Curve(np.array([0.0, 10, 20, 26]), np.array([2.0, 2, 3, 1.5]), np.array([0.0, 1, 2, 5]))
    mean = mean_of([a, b])
    assert mean.steps.tolist() == [0, 10, 20, 24]
    assert mean.values.tolist() == [3, 2, 2, 1]
    assert mean.seconds.tolist() == [0, 1, 2, 4]


@pytest.mark.parametrize("last", range(1, 11))
def test_the_last_point_of_a_training_loss_is_a_mean_of_enough_steps(last):
    """Of a loss by steps that is logged every ten: what a mean over the steps themselves gives."""
    losses = np.sin(np.arange(30.0 + last)) + 5
    steps = np.array([10.0, 20, 30, 30 + last])
    values = np.array(
        [losses[int(b - length) : int(b)].mean() for b, length in zip(steps, (10, 10, 10, last), strict=True)]
    )
    found = with_whole_end(Curve(steps, values, steps / 10))
    whole = last >= 5
    assert found.steps.tolist() == ([10, 20, 30, 30 + last] if whole else [10, 20, 30 + last])
    assert found.values[-1] == pytest.approx(losses[30 if whole else 20 :].mean())
    assert len(found.values) == len(found.seconds) == len(found.steps)
