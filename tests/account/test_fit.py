"""What is said to fit does, and nothing larger does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.account.fit import (
    TOKENS_PER_PARAMETER,
    largest,
    largest_batch,
    largest_model,
    model_for_budget,
    scaled,
)
from groundup.account.flops import training_flops_per_token
from groundup.account.memory import step_memory
from groundup.account.params import parameter_count
from groundup.account.presets import PRESETS
from groundup.account.time import seconds, tokens_within
from groundup.config import OptimConfig, TrainConfig
from groundup.errors import ConfigError

MODEL = PRESETS["report-36m"][1].model
GIB = 2**30


@given(limit=st.integers(0, 10**30))
def test_the_largest_number_with_a_property_is_found(limit: int):
    assert largest(lambda number: number <= limit) == limit


@settings(max_examples=25, deadline=None)
@given(
    memory=st.integers(GIB, 200 * GIB),
    kernels=st.sampled_from(["fast", "plain"]),
    precision=st.sampled_from(["fp32", "bf16"]),
)
def test_the_largest_batch_fits_and_one_more_does_not(memory, kernels, precision):
    train, optim = TrainConfig(kernels=kernels, precision=precision), OptimConfig()
    batch = largest_batch(MODEL, optim, train, memory)
    assert batch >= 1
    assert step_memory(MODEL, optim, train, batch_size=batch, device="cuda").peak <= memory
    assert step_memory(MODEL, optim, train, batch_size=batch + 1, device="cuda").peak > memory


def test_what_is_too_large_for_one_sequence_fits_none():
    assert largest_batch(PRESETS["llama3-8b"][1].model, OptimConfig(), TrainConfig(), 80e9) == 0


@pytest.mark.parametrize("preset", ["report-36m", "llama3-1b", "qwen2-0.5b", "gpt2-xl"])
def test_the_largest_model_of_a_family_fits_and_the_next_does_not(preset):
    run = PRESETS[preset][1]
    options, memory = (run.optim, run.train), 60 * GIB
    found = largest_model(run.model, *options, memory, batch_size=2)
    assert found is not None
    assert found.head_dim == run.model.head_dim
    assert found.num_heads / found.kv_heads == run.model.num_heads / run.model.kv_heads
    assert found.num_layers / found.d_model == pytest.approx(run.model.num_layers / run.model.d_model, rel=0.1)
    assert found.ffn_dim / found.d_model == pytest.approx(run.model.ffn_dim / run.model.d_model, rel=0.1)
    assert step_memory(found, *options, batch_size=2, device="cuda").peak <= memory
    wider = scaled(run.model, found.kv_heads + 1)
    assert step_memory(wider, *options, batch_size=2, device="cuda").peak > memory


@pytest.mark.parametrize("memory", [10**9, 10**40, 10**300])
def test_even_a_memory_beyond_all_machines_is_filled_at_once(memory):
    run = PRESETS["llama3-8b"][1]
    assert (largest_batch(run.model, run.optim, run.train, memory) > 0) == (memory > 10**9)
    assert (largest_model(run.model, run.optim, run.train, memory, batch_size=1) is None) == (memory == 10**9)


def test_gradients_of_the_passes_before_have_to_fit_too():
    options, memory = (MODEL, OptimConfig(), TrainConfig()), 4 * GIB
    batch = largest_batch(*options, memory, micro_batches=4)
    assert step_memory(*options, batch_size=batch, micro_batches=4, device="cuda").peak <= memory
    assert batch < largest_batch(*options, memory)


def test_on_a_cpu_the_copy_of_a_checkpoint_has_to_fit_too():
    train, optim, memory = TrainConfig(), OptimConfig(), 2 * GIB
    batch = largest_batch(MODEL, optim, train, memory, device="cpu")
    said = step_memory(MODEL, optim, train, batch_size=batch, device="cpu")
    assert said.needed == said.peak + said.checkpoint_copy <= memory
    assert largest_batch(MODEL, optim, TrainConfig(background_checkpoints=False), memory, device="cpu") > batch


def test_a_family_without_a_member_that_small_has_none():
    assert largest_model(MODEL, OptimConfig(), TrainConfig(), 1000, batch_size=1) is None
    assert model_for_budget(MODEL, 1e-3, 1e6, 0.4) is None


def test_the_model_of_a_budget_sees_twenty_tokens_a_parameter_in_time():
    time, peak, mfu = 24 * 3600, 989.5e12, 0.4
    found = model_for_budget(MODEL, time, peak, mfu)
    assert found is not None
    tokens = TOKENS_PER_PARAMETER * parameter_count(found)
    assert seconds(tokens * training_flops_per_token(found), peak, mfu) <= time
    wider = scaled(MODEL, found.num_heads + 1)
    tokens = TOKENS_PER_PARAMETER * parameter_count(wider)
    assert seconds(tokens * training_flops_per_token(wider), peak, mfu) > time


def test_tokens_within_a_time_take_that_time():
    tokens = tokens_within(MODEL, 3600, 312e12, 0.5)
    assert seconds(tokens * training_flops_per_token(MODEL), 312e12, 0.5) == pytest.approx(3600, rel=1e-9)


@pytest.mark.parametrize("mfu", [0, -0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(mfu):
    with pytest.raises(ConfigError, match=r"mfu = .*; expected a share of the peak in \(0, 1\]"):
        seconds(1e12, 1e12, mfu)


def test_a_peak_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"peak = 0 FLOP/s; expected a positive number"):
        seconds(1e12, 0, 0.5)
