import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groundup.errors import ConfigError, TrainingError
from groundup.generation import next_token


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def softmax64(logits, temperature: float) -> np.ndarray:
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max())
    return exponentials / exponentials.sum()


def nucleus64(probabilities: np.ndarray, top_p: float) -> set[int]:
    """The definition: likeliest first, until their sum reaches top_p."""
    chosen, total = set(), 0.0
    for token in np.argsort(-probabilities, kind="stable"):
        chosen.add(int(token))
        total += probabilities[token]
        if total >= top_p:
            break
    return chosen


def draws(logits, temperature: float, top_p: float, count: int, seed: int = 0) -> Counter:
    random = generator(seed)
    wide = torch.tensor(logits, dtype=torch.float64)
    return Counter(next_token(wide, temperature, top_p, random) for _ in range(count))


@settings(deadline=None, max_examples=60)
@given(
    logits=st.lists(st.integers(-256, 256).map(lambda n: n / 64), min_size=1, max_size=12),
    temperature=st.sampled_from([0.3, 0.8, 1.0, 2.0]),
    top_p=st.floats(0.01, 1.0),
    seed=st.integers(0, 2**32),
)
def test_only_the_smallest_set_of_likeliest_tokens_is_drawn(logits, temperature, top_p, seed):
    probabilities = softmax64(logits, temperature)
    sums = np.cumsum(np.sort(probabilities)[::-1])
    assume(top_p == 1 or np.abs(sums - top_p).min() > 1e-5)  # rounding decides on the border
    nucleus = nucleus64(probabilities, top_p)
    assert set(draws(logits, temperature, top_p, 40, seed)) <= nucleus


@pytest.mark.parametrize(
    ("top_p", "nucleus"),
    [(1e-300, {2}), (0.4, {2}), (0.5, {2}), (0.51, {0, 2}), (0.75, {0, 2}), (0.8, {0, 2, 3}), (1.0, {0, 1, 2, 3})],
)
def test_within_the_nucleus_tokens_come_as_often_as_their_probability_says(top_p, nucleus):
    probabilities = {0: 0.25, 1: 0.0625, 2: 0.5, 3: 0.1875}
    count = 4000
    found = draws([math.log(p) for p in probabilities.values()], 1.0, top_p, count)
    assert set(found) == nucleus
    total = sum(probabilities[token] for token in nucleus)
    for token in nucleus:
        p = probabilities[token] / total
        assert abs(found[token] - count * p) <= 5 * math.sqrt(count * p * (1 - p))


def test_of_equally_likely_tokens_no_more_than_needed_are_kept():
    assert len(draws([0.0] * 8, 1.0, 0.5, 400)) == 4


@settings(deadline=None)
@given(logits=st.lists(st.integers(-50, 50), min_size=1, max_size=20, unique=True), top_p=st.floats(0.01, 1))
@pytest.mark.parametrize("temperature", [0, 0.0, 1e-30, 1e-45, 1e-300, 5e-324])
def test_at_temperature_zero_or_hardly_above_the_likeliest_token_is_taken(temperature, logits, top_p):
    chosen = next_token(torch.tensor(logits, dtype=torch.float32), temperature, top_p, generator())
    assert chosen == int(np.argmax(logits))


@pytest.mark.parametrize("temperature", [1e30, 1.7e308])
def test_at_an_enormous_temperature_every_token_is_as_likely(temperature):
    assert len(draws([100.0, 0.0, -100.0], temperature, 1.0, 60)) == 3


@pytest.mark.parametrize("top_p", [5e-324, 1e-40, 1e-12])
def test_a_tiny_top_p_keeps_the_likeliest_token(top_p):
    assert draws([0.0, 0.1, 0.05], 1.0, top_p, 20) == {1: 20}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_of_the_logits_is_not_that_of_the_probabilities(dtype):
    # In bfloat16 0.501 is 0.5: one of two equal tokens would be all of the nucleus.
    logits, random = torch.zeros(2, dtype=dtype), generator()
    assert {next_token(logits, 1.0, 0.501, random) for _ in range(40)} == {0, 1}


def test_logits_are_left_as_they_were():
    logits = torch.tensor([1.0, 2.0, 3.0])
    next_token(logits, 0.5, 0.5, generator())
    assert logits.tolist() == [1.0, 2.0, 3.0]


def test_a_token_ruled_out_by_minus_infinity_is_never_drawn():
    assert set(draws([0.0, -math.inf, 0.0], 1.0, 1.0, 100)) == {0, 2}


@pytest.mark.parametrize("logits", [[1.0, math.nan], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_logits_of_diverged_weights_are_refused(logits):
    for temperature in (0.0, 1.0):
        with pytest.raises(TrainingError, match="not finite"):
            next_token(torch.tensor(logits), temperature, 0.9, generator())


@pytest.mark.parametrize(("temperature", "top_p"), [(-1.0, 0.9), (1.0, 0.0)])
def test_settings_without_a_meaning_are_refused(temperature, top_p):
    with pytest.raises(ConfigError, match=r"temperature = |top_p = "):
        next_token(torch.zeros(3), temperature, top_p, generator())
