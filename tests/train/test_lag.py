"""Reading a step's numbers only when the next one is launched, as on a GPU, changes nothing."""

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file

from groundup.config import RunConfig, override
from groundup.data.batches import DeviceBatches
from groundup.errors import TrainingError
from groundup.record.run import RunDirectory
from groundup.record.sinks import Silent, read_jsonl
from groundup.train import loop, train
from groundup.train.build import Trainer, build
from records import SignalAt, record


def lag(
    monkeypatch: pytest.MonkeyPatch, steps: int = 1, then: Callable[[Trainer], None] = lambda trainer: None
) -> None:
    """Make every run behave as on a GPU: one step in flight, batches made by a thread."""
    begin = loop.Session.__init__

    def begin_lagging(self: loop.Session, trainer: Trainer, *arguments, **options) -> None:
        if steps:
            trainer.batches._thread = ThreadPoolExecutor(1)
        then(trainer)
        begin(self, trainer, *arguments, **options)
        self.steps_in_flight = steps

    monkeypatch.setattr(loop.Session, "__init__", begin_lagging)


@pytest.fixture
def lagging(monkeypatch: pytest.MonkeyPatch) -> None:
    lag(monkeypatch)


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


@pytest.mark.parametrize("steps", [0, 1])
def test_a_broken_step_is_named_though_the_next_was_launched(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, steps: int
):
    """Step 10's gradient of one matrix is NaN. Step 11 is fine, and must not move what step 10 left in place."""
    made: list[Trainer] = []

    def break_step_10(trainer: Trainer) -> None:
        made.append(trainer)
        bad, _ = trainer.batches.batches.batch(9)
        whole = trainer.loss

        def loss(x, y):
            value = whole(x, y)
            if torch.equal(x, bad):
                weight = trainer.model.layers[1].ffn.w2.weight
                value = value + (weight * 0).sum().sqrt()  # the slope of a root at 0 is infinite, times 0
            return value

        trainer.loss = loss

    lag(monkeypatch, steps, break_step_10)
    display = Steps()
    with pytest.raises(
        TrainingError,
        match=r"^step 10: the loss is \d.*gradient norm is nan, first in that of layers\.1\.ffn\.w2\.weight, "
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


class TestBatchesMadeAhead:
    @pytest.fixture
    def ahead(self, config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> DeviceBatches:
        batches = build(config, "cpu").batches
        batches._thread = ThreadPoolExecutor(1)
        return batches

    def test_are_the_batches_of_the_steps_in_any_order(self, ahead: DeviceBatches):
        for step in (0, 1, 2, 7, 8, 3):
            ((x, y),) = ahead.micro_batches(step)
            expected_x, expected_y = ahead.batches.batch(step)
            assert torch.equal(x, expected_x)
            assert torch.equal(y, expected_y)
        ahead.close()

    def test_are_ready_before_they_are_asked_for(self, ahead: DeviceBatches, monkeypatch: pytest.MonkeyPatch):
        made, whole = [], ahead.batches.batch
        monkeypatch.setattr(ahead.batches, "batch", lambda step, *ranks: (made.append(step), whole(step, *ranks))[1])
        list(ahead.micro_batches(4))
        ahead._thread.shutdown(wait=True)
        assert made == [4, 5]

    def test_an_error_is_raised_where_its_step_is_asked_for(
        self, ahead: DeviceBatches, monkeypatch: pytest.MonkeyPatch
    ):
        whole = ahead.batches.batch

        def fragile(step: int, *ranks: int):
            if step == 2:
                raise ValueError("step 2 cannot be made")
            return whole(step, *ranks)

        monkeypatch.setattr(ahead.batches, "batch", fragile)
        list(ahead.micro_batches(0))
        list(ahead.micro_batches(1))
        with pytest.raises(ValueError, match="step 2 cannot be made"):
            list(ahead.micro_batches(2))
        ahead.close()
