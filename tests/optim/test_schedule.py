import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.config import OptimConfig
from groundup.errors import ConfigError
from groundup.optim import (
    describe_schedule,
    get_lr_cosine_schedule,
    last_shared_step,
    learning_rate,
    learning_rate_at,
    muon_momentum,
)

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


def config(schedule: str, **options) -> OptimConfig:
    return OptimConfig(schedule=schedule, **{"max_learning_rate": 1.0, "min_learning_rate": 0.1} | options)


def rates(total: int, options: OptimConfig) -> list[float]:
    return [learning_rate(step, total, options) for step in range(1, total + 1)]


def test_wsd_is_a_ramp_a_plateau_and_a_ramp():
    values = rates(20, config("wsd", warmup_iters=4, decay_fraction=0.25))
    np.testing.assert_allclose(values, np.interp(range(1, 21), [0, 4, 15, 20], [0, 1, 1, 0.1]), rtol=1e-14)


def test_linear_is_two_ramps():
    values = rates(20, config("linear", warmup_iters=4))
    np.testing.assert_allclose(values, np.interp(range(1, 21), [0, 4, 20], [0, 1, 0.1]), rtol=1e-14)


def test_constant_stays_at_the_peak():
    assert rates(6, config("constant", warmup_iters=3)) == [1 / 3, 2 / 3, 1, 1, 1, 1]


def test_a_decay_longer_than_what_the_warm_up_leaves_begins_after_it():
    wsd, linear = (config(name, warmup_iters=6, decay_fraction=0.9) for name in ("wsd", "linear"))
    assert rates(20, wsd) == rates(20, linear)


@st.composite
def runs(draw):
    total = draw(st.integers(1, 3000))
    low, high = sorted((draw(st.floats(0, 1)), draw(st.floats(1e-6, 1))))
    options = config(
        draw(st.sampled_from(["cosine", "wsd", "linear", "constant"])),
        max_learning_rate=high,
        min_learning_rate=low,
        warmup_iters=draw(st.integers(0, total)),
        decay_fraction=draw(st.floats(0.01, 1)),
    )
    return total, options


@given(run=runs())
def test_the_cosine_of_a_run_is_the_published_one_bit_for_bit(run):
    total, options = run
    options = dataclasses.replace(options, schedule="cosine")
    high, low, warmup = options.max_learning_rate, options.min_learning_rate, options.warmup_iters
    assert rates(total, options) == [get_lr_cosine_schedule(t, high, low, warmup, total) for t in range(1, total + 1)]


@given(run=runs())
def test_every_schedule_climbs_evenly_then_only_falls_and_ends_exactly(run):
    total, options = run
    high, low, warmup = options.max_learning_rate, options.min_learning_rate, options.warmup_iters
    values = rates(total, options)
    np.testing.assert_allclose(values[: max(warmup - 1, 0)], [t / warmup * high for t in range(1, warmup)])
    assert values[-1] == (high if options.schedule == "constant" else low)
    if 0 < warmup < total:
        assert values[warmup - 1] == pytest.approx(high, rel=1e-15)
    after = values[max(warmup - 1, 0) :]
    assert all(a >= b for a, b in itertools.pairwise(after))
    assert all(low <= value <= high * (1 + 1e-15) for value in after)


@given(run=runs(), progress=st.floats(0, 1))
def test_progress_reads_the_same_curve_between_its_steps(run, progress):
    total, options = run
    value = learning_rate_at(progress, total, options)
    before, after = (math.floor(progress * total), math.ceil(progress * total))
    ends = [learning_rate(step, total, options) for step in (before, after)]
    corners = [options.max_learning_rate] if before <= options.warmup_iters <= after else []
    slack = 1e-12 + (options.max_learning_rate - options.min_learning_rate) * 1e-9
    assert min(ends) - slack <= value <= max(ends + corners + _plateau(options, total, before, after)) + slack


def _plateau(options: OptimConfig, total: int, before: int, after: int) -> list[float]:
    knee = (1 - options.decay_fraction) * total
    return [options.max_learning_rate] if options.schedule == "wsd" and before <= knee <= after else []


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "linear", "constant"])
@pytest.mark.parametrize("total", [1, 7, 100, 999])
def test_progress_at_the_steps_gives_the_steps_rates(schedule, total):
    options = config(schedule, warmup_iters=total // 5, decay_fraction=0.3)
    at = [learning_rate_at(step / total, total, options) for step in range(1, total + 1)]
    np.testing.assert_allclose(at, rates(total, options), rtol=1e-9)
    assert at[-1] == rates(total, options)[-1]
    assert learning_rate_at(1.7, total, options) == at[-1]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "linear", "constant"])
def test_without_jumps(schedule):
    options = config(schedule, warmup_iters=10, decay_fraction=0.3)
    fine = [learning_rate_at(k / 100_000, 100, options) for k in range(100_001)]
    # The steepest piece climbs 1 in a tenth of the run.
    assert max(abs(a - b) for a, b in itertools.pairwise(fine)) < 1.1e-4


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "linear", "constant"])
def test_warm_ups_of_no_step_one_step_and_all_steps(schedule):
    end = 1.0 if schedule == "constant" else 0.1
    assert rates(10, config(schedule, warmup_iters=0))[0] > 0.9
    assert rates(10, config(schedule, warmup_iters=1))[0] == pytest.approx(1.0)
    whole = rates(10, config(schedule, warmup_iters=10))
    np.testing.assert_allclose(whole, [*(k / 10 for k in range(1, 10)), end])


@pytest.mark.parametrize("progress", [-0.1, math.nan])
def test_impossible_progress_is_refused(progress):
    with pytest.raises(ConfigError, match=rf"progress = {progress}; expected .* from 0 to 1"):
        learning_rate_at(progress, 10, config("cosine"))


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("cosine", "1 after 200 steps, cosine to 0.1"),
        ("wsd", "1 after 200 steps, flat, then a straight line over the last 20 % to 0.1"),
        ("linear", "1 after 200 steps, straight line to 0.1"),
        ("constant", "1 after 200 steps, constant"),
    ],
)
def test_a_schedule_in_words(schedule, words):
    assert describe_schedule(config(schedule)) == words


@given(runs=runs(), longer=st.integers(1, 5000))
def test_a_longer_run_has_the_same_rates_until_the_last_shared_step(runs, longer):
    total, options = runs
    last = last_shared_step(total, options)
    assert 0 <= last <= total
    for step in {1, last // 2, last - 1, last} - {0, -1}:
        if step <= last:
            assert learning_rate(step, total, options) == learning_rate(step, total + longer, options)


@pytest.mark.parametrize(
    ("schedule", "total", "last"),
    [("wsd", 20, 16), ("wsd", 1, 0), ("constant", 20, 20), ("cosine", 20, 0), ("linear", 20, 0)],
)
def test_the_last_shared_step_is_the_end_of_the_plateau(schedule, total, last):
    options = config(schedule, warmup_iters=0)
    assert last_shared_step(total, options) == last
    if 0 < last < total:
        assert learning_rate(last + 1, total, options) < learning_rate(last + 1, 2 * total, options)


STAGES = {
    "linear": [0.1, 0.25, 0.4, 0.3, 0.2, 0.1, 0.0],
    "constant": [0.1, 0.25, 0.4, 0.4, 0.4, 0.4, 0.4],
    "wsd": [0.1, 0.25, 0.4, 0.4, 0.4, 0.2, 0.0],
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("first", ["cosine", "linear", "wsd"])
def test_a_second_stage_begins_where_the_first_one_ended(first, stage):
    options = config(
        first, warmup_iters=3, stage_from=10, stage_schedule=stage, stage_learning_rate=0.4, stage_warmup_iters=2,
        decay_fraction=1 / 3,
    )  # fmt: skip
    alone = config(first, warmup_iters=3, decay_fraction=1 / 3)
    values = rates(16, options)
    assert values[:10] == rates(10, alone)
    np.testing.assert_allclose(values[9:], STAGES[stage], rtol=1e-12)


def test_a_second_stage_takes_its_peak_from_the_first():
    assert rates(8, config("constant", warmup_iters=0, stage_from=4, stage_min_learning_rate=0.5))[3:] == [
        1.0, 0.875, 0.75, 0.625, 0.5
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"optim\.stage_learning_rate = 0\.0; .*ends with 0"):
        config("linear", min_learning_rate=0.0, stage_from=4)
    with pytest.raises(ConfigError, match=r"optim\.stage_min_learning_rate = 0\.2; expected at most"):
        config("linear", stage_from=4, stage_min_learning_rate=0.2)


def test_a_second_stage_in_words():
    words = describe_schedule(config("cosine", stage_from=1000, stage_warmup_iters=5, stage_learning_rate=0.4))
    assert words.endswith("cosine to 0.1; from step 1,000 on 0.4 after 5 steps, straight line to 0")


def momenta(steps: int, **options) -> list[float]:
    optim = OptimConfig(optimizer="muon", muon_momentum=0.95, **options)
    return [muon_momentum(step, steps, optim) for step in range(1, steps + 1)]


def test_the_momentum_of_muon_warms_up_and_cools_down():
    assert momenta(6) == [0.95] * 6
    np.testing.assert_allclose(momenta(6, muon_momentum_warmup=4), [0.85, 0.875, 0.9, 0.925, 0.95, 0.95])
    np.testing.assert_allclose(momenta(6, muon_momentum_cooldown=2), [0.95] * 4 + [0.9, 0.85])
    both = {"muon_momentum_warmup": 4, "muon_momentum_cooldown": 2}
    np.testing.assert_allclose(momenta(6, **both), [0.85, 0.875, 0.9, 0.925, 0.9, 0.85])
    staged = momenta(10, stage_from=6, **both)
    assert staged[:6] == momenta(6, **both)
    np.testing.assert_allclose(staged[6:], [0.95, 0.95, 0.9, 0.85])


def test_a_longer_run_shares_the_steps_before_the_cool_down():
    options = {"schedule": "constant", "muon_momentum_cooldown": 5}
    last = last_shared_step(20, OptimConfig(optimizer="muon", **options))
    assert last == 15
    assert momenta(20, **options)[:last] == momenta(30, **options)[:last]
    assert momenta(20, **options)[last] != momenta(30, **options)[last]
    assert last_shared_step(20, OptimConfig(optimizer="adamw", **options)) == 20
