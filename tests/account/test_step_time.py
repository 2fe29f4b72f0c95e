"""The time of a step on a CPU: as recorded by the benchmark, since a test cannot know how busy the machine is."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from account_accuracy import BASE, SHAPES, run_config
from account_measure import run_of
from groundup.account.flops import forward_flops, recomputed_flops
from groundup.account.time import cpu_step_seconds, step_work
from groundup.config import ModelConfig, TrainConfig

RESULTS = sorted((Path(__file__).resolve().parents[2] / "benchmarks" / "results").glob("account_accuracy-*.json"))
MODEL = ModelConfig(vocab_size=1000, context_length=64, d_model=64, num_layers=2, num_heads=2)


def recorded() -> list[dict[str, Any]]:
    return [row for row in json.loads(RESULTS[-1].read_text()) if row["what"] == "time"]


@pytest.mark.parametrize("row", recorded(), ids=lambda row: f"{row['run']}, {row['threads']} threads")
def test_what_is_predicted_was_measured_within_fifteen_per_cent(row):
    config = run_of(run_config(SHAPES[row["run"]], BASE))
    now = cpu_step_seconds(
        config.model,
        config.train,
        batch_size=config.data.batch_size,
        flops_per_second=1e9 * row["matmul_gflops"],
    )
    # The prediction of today's code for the machine of that day, against the time that it took.
    assert 1e3 * now == pytest.approx(row["found_ms"], rel=0.15)


def test_five_shapes_are_on_record():
    assert {row["run"] for row in recorded()} == set(SHAPES)
    assert len(SHAPES) == 5


def test_a_step_works_on_every_matmul_and_element():
    work = step_work(MODEL, TrainConfig(), 3)
    recomputed = recomputed_flops(MODEL, TrainConfig())
    assert work["weights"] + work["attention"] == 3 * (3 * forward_flops(MODEL) + recomputed)
    tokens = 3 * MODEL.context_length
    scores = 2 * 3 * 2 * MODEL.context_length**2
    assert (work["gate"], work["scores"], work["logits"]) == (2 * tokens * MODEL.ffn_dim, scores, tokens * 1000)


@given(batch_size=st.integers(1, 64), speed=st.floats(1e9, 1e13))
def test_more_work_takes_longer_and_a_faster_machine_less_long(batch_size, speed):
    def seconds(model: ModelConfig = MODEL, batch: int = batch_size, flops: float = speed) -> float:
        return cpu_step_seconds(model, TrainConfig(), batch_size=batch, flops_per_second=flops)

    assert seconds() > 3 * batch_size * forward_flops(MODEL) / speed
    assert seconds(batch=batch_size + 1) > seconds()
    assert seconds(flops=2 * speed) < seconds()
    assert seconds(ModelConfig(**{**vars(MODEL), "num_layers": 3})) > seconds()
