"""What watches over a run: loss spikes, numbers that break, and the room on the disk."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundup.config import RunConfig, TrainConfig, override
from groundup.errors import ConfigError, TrainingError
from groundup.record.run import RunDirectory
from groundup.record.sinks import Silent, read_jsonl
from groundup.train import loop, train
from groundup.train.limits import free_bytes, most_checkpoints
from groundup.train.loop import watch_for_spike
from groundup.train.state import TrainState
from records import record


def reported(losses: list[float], factor: float = 1.5) -> list[int]:
    """Indices of the losses that are reported as spikes."""
    state = TrainState()
    return [i for i, loss in enumerate(losses) if watch_for_spike(state, loss, factor)]


@pytest.mark.parametrize(
    ("losses", "spikes"),
    [
        ([3.0] * 50, []),
        ([3.0] * 20 + [10.0] + [3.0] * 20, [20]),
        ([3.0] * 20 + [30.0] * 60, [20]),  # a jump that stays is one spike, not one at every step
        ([3.0] * 20 + [30.0] * 60 + [300.0] * 5, [20, 80]),
        ([3.0] * 20 + [9.0] + [3.0] * 5 + [9.0] + [3.0] * 5, [20, 26]),
        ([9.0, 3.0, 3.0], []),
        ([], []),
    ],
)
def test_a_spike_is_reported_once_when_it_begins(losses: list[float], spikes: list[int]):
    assert reported(losses) == spikes
    assert reported(losses, factor=0.0) == []


@given(losses=st.lists(st.floats(0.1, 100.0), max_size=40), factor=st.floats(1.0, 5.0))
def test_a_spike_is_a_loss_far_above_the_average_of_all_before(losses: list[float], factor: float):
    def average(seen: list[float]) -> float:
        # The exponential average written out: the newest loss has a tenth, the oldest all that is left.
        weights = [0.1 * 0.9**age for age in range(len(seen) - 1)] + [0.9 ** (len(seen) - 1)]
        return sum(w * loss for w, loss in zip(weights, reversed(seen), strict=True))

    margins = [loss / average(losses[: i + 1]) / factor for i, loss in enumerate(losses[1:])]
    if any(math.isclose(m, 1.0, rel_tol=1e-9) for m in margins):
        return
    above = [False, *(m > 1 for m in margins)]
    assert reported(losses, factor) == [i for i in range(1, len(losses)) if above[i] and not above[i - 1]]


class Notes(Silent):
    """Collects what a person is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def with_launch(monkeypatch: pytest.MonkeyPatch, change: Callable) -> None:
    """Let ``change(trainer, launch)`` stand in for the launch of a step."""
    whole = loop.train_on_batch
    monkeypatch.setattr(loop, "train_on_batch", lambda trainer, *step: change(trainer, lambda: whole(trainer, *step)))


def test_a_spike_is_told_and_recorded_once_though_the_run_stops_within_it(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
):
    def inflated(trainer, launch):
        result = launch()
        if 11 <= trainer.state.step < 16:
            result._values[0] *= 10
        return result

    with_launch(monkeypatch, inflated)
    notes = Notes()
    train(override(config, {"name": "whole"}), display=notes)
    told = [note for note in notes.notes if note.startswith("step 12: loss ")]
    assert len(told) == 1
    assert "on average" in told[0]

    def stops(trainer, launch):
        if trainer.state.step == 13:
            raise KeyboardInterrupt
        return inflated(trainer, launch)

    monkeypatch.undo()
    with_launch(monkeypatch, stops)
    every_step = override(config, {"train.checkpoint_interval": 1})
    with pytest.raises(KeyboardInterrupt):
        train(every_step)
    monkeypatch.undo()
    with_launch(monkeypatch, inflated)
    train(every_step, resume=True)
    keys = ("step", "loss_spike", "spike_loss", "recent_loss")
    for run in (config.run_dir, config.run_dir.with_name("whole")):
        spikes = [[line[k] for k in keys] for line in read_jsonl(run / "metrics.jsonl") if "loss_spike" in line]
        assert [spike[:2] for spike in spikes] == [[12, True]]
        assert spikes[0][2] > 1.5 * spikes[0][3]


def break_gradient(parameter: str, at: int, value: float) -> Callable:
    """A launch in whose step ``at`` one number of one parameter's gradient breaks."""

    def change(trainer, launch):
        if trainer.state.step + 1 == at:
            weight = dict(trainer.model.named_parameters())[parameter]

            def hook(gradient: torch.Tensor) -> torch.Tensor:
                broken = gradient.clone()
                broken.view(-1)[-1] = value
                return broken

            weight.register_hook(hook)
        return launch()

    return change


@pytest.mark.parametrize(
    ("optimizer", "parameter", "value"),
    [
        ("adamw", "layers.1.ffn.w2.weight", math.nan),
        ("muon", "layers.0.attn.k_proj.weight", math.inf),
        ("adamw", "ln_final.weight", -math.inf),
    ],
)
def test_a_broken_gradient_stops_the_run_names_itself_and_harms_nothing(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, optimizer: str, parameter: str, value: float
):
    config = override(config, {"optim.optimizer": optimizer})
    with_launch(monkeypatch, break_gradient(parameter, 15, value))
    with pytest.raises(TrainingError) as raised:
        train(config)
    message = str(raised.value)
    assert message.startswith("step 15: the loss is ")
    for part in (f"first in that of {parameter}", "at learning rate ", "checkpoint step-12 is good",
                 "lower optim.max_learning_rate (0.01) or lengthen optim.warmup_iters (3)"):  # fmt: skip
        assert part in message
    assert "\n" not in message
    assert RunDirectory(config.run_dir).checkpoint("latest").name == "step-12"
    monkeypatch.undo()
    train(override(config, {"name": "whole"}))
    assert train(config, resume=True).finished
    assert record(config.run_dir) == record(config.run_dir.with_name("whole"))


def test_of_several_broken_gradients_the_first_of_the_model_is_named(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
):
    def change(trainer, launch):
        break_gradient("lm_head.weight", 2, math.nan)(trainer, lambda: None)
        return break_gradient("layers.1.ln1.weight", 2, math.nan)(trainer, launch)

    with_launch(monkeypatch, change)
    with pytest.raises(TrainingError, match=r"layers\.1\.ln1\.weight.*no checkpoint had been written yet"):
        train(config)


@pytest.mark.parametrize(
    "change",
    [
        {"train.keep_checkpoints": 0},
        {"train.keep_checkpoints": 2},
        {"train.keep_checkpoints": 1, "train.checkpoint_interval": 1},
        {"train.keep_checkpoints": 3, "train.checkpoint_interval": 100, "data.valid": ""},
        {"train.keep_checkpoints": 0, "train.checkpoint_interval": 7, "data.valid": ""},
    ],
    ids=str,
)
def test_a_run_never_has_more_checkpoints_than_are_counted_on(config: RunConfig, change: dict):
    config = override(config, change | {"train.background_checkpoints": False, "sample.interval": 0})
    seen = [0]

    class Counts(Silent):
        def step(self, step: int, loss: float) -> None:
            seen.append(len(list((config.run_dir / "checkpoints").glob("step-*"))))

    train(config, display=Counts())
    seen.append(len(RunDirectory(config.run_dir).steps()))
    most = most_checkpoints(config.train, evaluates=bool(config.data.valid))
    assert max(seen) <= most
    if not config.train.keep_checkpoints and not config.data.valid:
        assert max(seen) == most


@given(
    steps=st.integers(1, 10_000),
    interval=st.integers(1, 2000),
    every=st.integers(1, 2000),
    keep=st.integers(0, 5),
    evaluates=st.booleans(),
)
def test_checkpoints_are_counted_as_one_would_by_hand(
    steps: int, interval: int, every: int, keep: int, evaluates: bool
):
    config = TrainConfig(max_iters=steps, checkpoint_interval=interval, eval_interval=every, keep_checkpoints=keep)
    written = {s for s in range(1, steps + 1) if s % interval == 0 or s == steps or (evaluates and s % every == 0)}
    most = most_checkpoints(config, evaluates=evaluates)
    assert most >= (min(len(written), keep + 2) if keep else len(written))
    assert most <= (keep + 2 if keep else 2 * len(written))


def test_too_little_room_is_told_before_the_first_step_and_stops_nothing(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
):
    notes = Notes()
    train(override(config, {"name": "roomy", "train.max_iters": 3}), display=notes)
    assert not any("are free" in note for note in notes.notes)
    usage = shutil.disk_usage(config.runs_dir)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=700_000))
    config = override(config, {"train.max_iters": 3, "train.eval_interval": 1, "train.keep_checkpoints": 2})
    assert train(config, display=notes).finished
    (told,) = [note for note in notes.notes if "are free" in note]
    for part in ("checkpoints may take ", "700.0 kB are free", str(config.run_dir), "train.keep_checkpoints = 2"):
        assert part in told


def test_a_run_of_which_no_checkpoint_fits_on_the_disk_is_refused(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(config.runs_dir)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=20_000))
    config = override(config, {"train.max_iters": 3})
    with pytest.raises(ConfigError, match=r"a checkpoint takes .* 20\.0 kB are free .*--force"):
        train(config)
    assert not config.run_dir.exists()
    assert train(config, force=True).finished


def test_room_is_measured_where_the_folder_will_be(tmp_path: Path):
    assert free_bytes(tmp_path / "not" / "yet") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
