import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groundup.errors import ConfigError, TrainingError
from groundup.generation import Sampling, next_token
from groundup.generation.sampling import Sampler, finite, probabilities


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


SETTINGS = [
    {"top_k": 1}, {"top_k": 5}, {"top_k": 40}, {"top_k": 1000}, {"top_p": 0.3}, {"top_p": 0.95}, {"min_p": 0.05},
    {"min_p": 1.0}, {"typical_p": 0.3}, {"typical_p": 0.9}, {"repetition_penalty": 1.3}, {"repetition_penalty": 0.7},
    {"temperature": 0.2, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.95, "repetition_penalty": 1.1},
    {"temperature": 3.0, "top_p": 0.6, "typical_p": 0.7},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_what_is_sampled_from_is_what_transformers_samples_from(settings):
    from transformers.generation import logits_process as theirs

    for seed in range(20):
        random = generator(seed)
        logits = 3 * torch.randn(50, generator=random, dtype=torch.float64)
        prompt = torch.randint(50, (1, 8), generator=random)
        sampling = Sampling(**settings)
        chain = theirs.LogitsProcessorList()
        if sampling.repetition_penalty != 1:
            chain.append(theirs.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        if sampling.temperature != 1:
            chain.append(theirs.TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            chain.append(theirs.TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            chain.append(theirs.TopPLogitsWarper(sampling.top_p))
        if sampling.min_p:
            chain.append(theirs.MinPLogitsWarper(sampling.min_p))
        if sampling.typical_p < 1:
            chain.append(theirs.TypicalLogitsWarper(sampling.typical_p))
        expected = chain(prompt, logits[None].clone())[0].softmax(-1)
        sampler = Sampler(sampling, prompt[0].tolist())
        found = probabilities(sampler._changed(finite(logits)), sampling)
        torch.testing.assert_close(found / found.sum(), expected)


def test_presence_and_frequency_penalties_are_openais_formula():
    """mu[j] -= c[j] * frequency + (c[j] > 0) * presence, over the new text and not the prompt."""
    sampling = Sampling(temperature=0, presence_penalty=0.6, frequency_penalty=0.25)
    logits = torch.tensor([2.0, 1.91, 1.03], dtype=torch.float64)
    sampler, counts, found = Sampler(sampling, [0, 0, 0]), Counter(), []
    for _ in range(12):
        expected = [logits[j] - counts[j] * 0.25 - (counts[j] > 0) * 0.6 for j in range(3)]
        found.append(sampler.next(logits))
        assert found[-1] == int(np.argmax(expected))
        counts[found[-1]] += 1
    assert set(found) == {0, 1, 2}


def test_a_bias_bans_or_forces_a_token():
    logits = torch.tensor([2.0, 1.0, 0.0])
    assert Sampler(Sampling(temperature=0, logit_bias={0: -math.inf})).next(logits) == 1
    assert Sampler(Sampling(logit_bias={2: 100.0}, seed=0)).next(logits) == 2


def test_of_equal_logits_the_first_is_taken():
    logits = torch.zeros(1000)
    logits[[17, 400, 999]] = 1.0
    assert Sampler(Sampling(temperature=0)).next(logits) == 17


def test_a_seed_repeats_a_text_and_without_one_texts_differ():
    logits = torch.zeros(1000)

    def text(seed):
        sampler = Sampler(Sampling(seed=seed))
        return [sampler.next(logits) for _ in range(5)]

    assert text(3) == text(3) != text(4)
    assert text(None) != text(None)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}, {"min_p": -0.1}, {"min_p": 2},
        {"typical_p": 0}, {"repetition_penalty": 0}, {"repetition_penalty": math.inf}, {"presence_penalty": math.nan},
        {"max_tokens": -1},
        {"frequency_penalty": math.inf}, {"logit_bias": {3: math.nan}}, {"logit_bias": {3: math.inf}}, {"seed": -1},
        {"seed": 2**63}, {"stop": ("",)}, {"log_probabilities": -1},
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_outside_its_range_is_named(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Sampling(**settings)
