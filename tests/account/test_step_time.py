"""The time of a step on a CPU: what is counted, and, in the long tests, what is predicted."""

import pytest

from account_accuracy import BASE, SHAPES, run_config
from account_measure import step_time
from groundup.account.flops import forward_flops, repeated_flops
from groundup.account.step_time import cpu_step_seconds, step_work
from groundup.config import ModelConfig, TrainConfig
from side_by_side import in_fresh_process

MODEL = ModelConfig(vocab_size=100, context_length=16, d_model=32, num_layers=2, num_heads=4, d_ff=48)


def test_a_step_works_on_every_product_and_element():
    work = step_work(MODEL, TrainConfig(), 3)
    assert work["weights"] + work["attention"] == 3 * (3 * forward_flops(MODEL) + repeated_flops(MODEL, TrainConfig()))
    assert (work["gate"], work["scores"], work["logits"]) == (2 * 48 * 48, 2 * 3 * 4 * 16 * 16, 48 * 100)


def test_twice_the_batch_takes_twice_the_time_and_half_the_speed_too():
    def seconds(batch_size: int, speed: float) -> float:
        return cpu_step_seconds(MODEL, TrainConfig(), batch_size=batch_size, flops_per_second=speed)

    of_calls = seconds(1, 1e30)
    assert seconds(8, 1e9) - of_calls == pytest.approx(2 * (seconds(4, 1e9) - of_calls))
    assert seconds(8, 1e9) - of_calls == pytest.approx(2 * (seconds(8, 2e9) - of_calls))


@pytest.mark.long
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_takes_what_is_predicted(shape):
    """On a quiet machine."""
    arguments = {"run": run_config(SHAPES[shape], BASE)}
    name = f"{step_time.__module__}:{step_time.__name__}"
    found = in_fresh_process(name, arguments, threads=1, math_threads=1, time_limit=600)
    assert found["predicted_seconds"] == pytest.approx(found["seconds"], rel=0.15)
