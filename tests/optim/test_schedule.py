import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.optim import get_lr_cosine_schedule

COURSE = {"max_learning_rate": 1.0, "min_learning_rate": 0.1, "warmup_iters": 7, "cosine_cycle_iters": 21}


def test_the_published_values():
    # Of the cosine, the angle is k/14 of a half turn, k = 0..14.
    warmup = [k / 7 for k in range(7)]
    cosine = [0.55 + 0.45 * np.cos(np.pi * k / 14) for k in range(15)]
    values = [get_lr_cosine_schedule(it=it, **COURSE) for it in range(25)]
    np.testing.assert_allclose(values, [*warmup, *cosine, 0.1, 0.1, 0.1], rtol=1e-12)
    assert (values[0], values[7], values[14], values[21]) == (0.0, 1.0, pytest.approx(0.55), 0.1)


@given(
    it=st.integers(0, 300), warmup=st.integers(0, 100), cycle=st.integers(0, 200),
    low=st.floats(0, 1), high=st.floats(0, 1),
)  # fmt: skip
def test_it_is_its_three_branches_everywhere(it, warmup, cycle, low, high):
    value = get_lr_cosine_schedule(it, high, low, warmup, cycle)
    if it < warmup:
        expected = it / warmup * high
    elif it < cycle:
        expected = low + (1 + math.cos((it - warmup) / (cycle - warmup) * math.pi)) / 2 * (high - low)
    else:
        expected = low
    assert value == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("warmup", "cycle"), [(0, 10), (5, 5), (0, 0), (10, 5)])
def test_a_warm_up_or_cosine_of_no_length_divides_by_nothing(warmup, cycle):
    values = [get_lr_cosine_schedule(it, 1.0, 0.1, warmup, cycle) for it in range(15)]
    assert all(0 <= value <= 1 for value in values)
    assert values[-1] == 0.1
