"""Reading a step's numbers only when the next one is launched, as on a GPU, changes nothing."""

import signal

import pytest
import torch
from safetensors.torch import load_file

from groundup.config import RunConfig, override
from groundup.data.prefetch import Prefetch
from groundup.errors import TrainingError
from groundup.record.run import RunDirectory
from groundup.record.sinks import Silent, read_jsonl
from groundup.train import loop, train
from records import SignalAt, record


@pytest.fixture
def lagging(monkeypatch: pytest.MonkeyPatch) -> type[loop.Trainer]:
    """Makes every run behave as on a GPU: one step in flight, batches made by a thread."""

    class Lagging(loop.Trainer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.lag = 1
            self.feed._batch = Prefetch(self.feed._make)

    monkeypatch.setattr(loop, "Trainer", Lagging)
    return Lagging


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("passes", [1, 2])
def test_metrics_samples_and_weights_are_the_same_bit_for_bit(
    config: RunConfig, optimizer: str, passes: int, request: pytest.FixtureRequest
):
    config = override(config, {"optim.optimizer": optimizer, "data.micro_batch_size": 4 // passes})
    expected = record(train(override(config, {"name": "at once"})).run_dir)
    request.getfixturevalue("lagging")
    assert record(train(config).run_dir) == expected


@pytest.mark.parametrize("stop", [1, 5, 7, 8, 23])
def test_a_signal_with_a_step_in_flight_loses_nothing(config: RunConfig, stop: int, request: pytest.FixtureRequest):
    expected = record(train(override(config, {"name": "whole"})).run_dir)
    request.getfixturevalue("lagging")
    stopped = train(config, display=SignalAt(stop, signal.SIGTERM))
    # The step that is in flight when the signal comes is finished and kept.
    assert stopped.summary["step"] in (stop, stop + 1)
    assert train(config, resume=True).finished
    assert record(config.run_dir) == expected


class Steps(Silent):
    """Remembers the steps that were shown."""

    def __init__(self):
        self.shown: list[int] = []

    def step(self, step: int, loss: float) -> None:
        self.shown.append(step)


@pytest.mark.parametrize("lag", [0, 1])
def test_a_broken_step_is_named_though_the_next_was_launched(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, lag: int
):
    """Step 10's gradient of one matrix is NaN. Step 11 is fine, and must not move what step 10 left in place."""
    made: list[loop.Trainer] = []

    class Breaking(loop.Trainer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.lag = lag
            made.append(self)
            bad, _ = self.feed.batches.batch(9)
            whole = self.loss

            def loss(x, y):
                value = whole(x, y)
                if torch.equal(x, bad):
                    weight = self.model.layers[1].ffn.w2.weight
                    value = value + (weight * 0).sum().sqrt()  # the slope of a root at 0 is infinite, times 0
                return value

            self.loss = loss

    monkeypatch.setattr(loop, "Trainer", Breaking)
    display = Steps()
    with pytest.raises(
        TrainingError,
        match=r"^step 10: the loss is \d.*norm of the gradient nan, first in that of layers\.1\.ffn\.w2\.weight, "
        r"at learning rate .*; nothing was applied and checkpoint step-8 is good; lower optim",
    ):
        train(config, display=display)
    assert display.shown == list(range(1, 10))
    lines = list(read_jsonl(config.run_dir / "metrics.jsonl"))
    assert [line["train_loss"] for line in lines if line["step"] >= 10] == [None]
    # The weights are those that step 9 left: the same as in a run that was told to stop there.
    monkeypatch.undo()
    other = override(config, {"name": "nine"})
    train(other, display=SignalAt(9, signal.SIGTERM))
    nine = load_file(RunDirectory(other.run_dir).checkpoint("latest") / "model.safetensors")
    for name, parameter in made[0].model.named_parameters():
        assert torch.equal(parameter, nine[name]), name


class TestPrefetch:
    def test_gives_what_the_function_gives_in_any_order(self):
        calls = []

        def square(step: int) -> int:
            calls.append(step)
            return step * step

        ahead = Prefetch(square)
        assert [ahead(step) for step in (0, 1, 2, 7, 8, 3)] == [0, 1, 4, 49, 64, 9]
        ahead.close()
        assert {0, 1, 2, 3, 7, 8} <= set(calls) <= set(range(10))

    def test_is_ready_before_it_is_asked_for(self):
        made = []
        ahead = Prefetch(made.append)
        ahead(4)
        ahead._thread.shutdown(wait=True)
        assert made == [4, 5]

    def test_an_error_is_raised_where_its_step_is_asked_for(self):
        def fragile(step: int) -> int:
            if step == 2:
                raise ValueError("step 2 cannot be made")
            return step

        ahead = Prefetch(fragile)
        assert [ahead(0), ahead(1)] == [0, 1]
        with pytest.raises(ValueError, match="step 2 cannot be made"):
            ahead(2)
        ahead.close()

    def test_without_looking_ahead_nothing_more_is_made(self):
        made = []
        Prefetch(made.append, ahead=False)(3)
        assert made == [3]
