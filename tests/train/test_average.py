"""The average of the weights of a run's last steps (train.average_last)."""

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import groundup
from account_measure import Step, allocated_at_most
from groundup.account.memory import step_memory
from groundup.config import RunConfig, TrainConfig, override
from groundup.errors import ConfigError
from groundup.interop.export import export_model
from groundup.optim.average import AVERAGE, averaged_weights, first_averaged_step, update_average
from groundup.record.run import RunDirectory
from groundup.record.sinks import read_jsonl
from groundup.train import evaluate_run, train
from groundup.train.limits import checkpoint_bytes
from records import SignalAt, record

LAST = {"train.average_last": 0.25}  # 6 of 24 steps


def weights(run: Path, step: int, name: str = "model") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step}" / f"{name}.safetensors")


def val_losses(run: Path, key: str = "val_loss") -> dict[int, float]:
    return {line["step"]: line[key] for line in read_jsonl(run / "metrics.jsonl") if key in line}


@pytest.fixture
def config(config: RunConfig) -> RunConfig:
    every = {"train.eval_windows": 0, "train.eval_interval": 10, "train.background_checkpoints": False}
    return override(config, {"sample.interval": 0} | every)


@pytest.fixture
def plain(config: RunConfig) -> Path:
    """A run without averages, with a checkpoint of every step."""
    return train(override(config, {"name": "plain", "train.checkpoint_interval": 1})).run_dir


def test_the_last_checkpoints_hold_the_average_and_the_run_is_the_same(config: RunConfig, plain: Path):
    decay = 0.6
    run = train(override(config, LAST | {"train.average_decay": decay, "train.checkpoint_interval": 1})).run_dir
    expected: dict[str, torch.Tensor] = {}
    for step in range(17, 25):
        own = weights(plain, step)
        if step < 19:
            assert all(torch.equal(own[name], found) for name, found in weights(run, step).items())
            continue
        # Written down once more: a mean, until that would remember longer than the decay does.
        share = max(1 / (step - 18), 1 - decay)
        expected = {name: w.double() * share + expected.get(name, 0) * (1 - share) for name, w in own.items()}
        raw = weights(run, step, "optimizer")
        for name, found in weights(run, step).items():
            torch.testing.assert_close(found.double(), expected[name], rtol=0, atol=1e-6)
            assert torch.equal(raw[f"{name}.raw"], own[name])
    before, after = val_losses(plain), val_losses(run)
    assert {step: after[step] for step in (0, 10)} == {step: before[step] for step in (0, 10)}
    raw_losses = val_losses(run, "val_loss_raw")
    assert raw_losses == {step: before[step] for step in (20, 24)}
    assert after[24] != raw_losses[24]


def test_the_average_is_what_is_evaluated_generated_and_exported(config: RunConfig, tmp_path: Path):
    run = train(override(config, LAST)).run_dir
    assert evaluate_run(run, "latest").loss == pytest.approx(val_losses(run)[24], abs=1e-6)
    model = groundup.load(run, checkpoint="latest").model
    export_model(run, tmp_path / "folder", "folder", checkpoint="latest")
    exported = load_file(tmp_path / "folder" / "model.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights(run, 24)[name])
        assert torch.equal(parameter, exported[name])
    child = train(override(config, {"name": "child", "train.init": f"{run}@24", "optim.warmup_iters": 0}), pause=bool)
    assert val_losses(child.run_dir)[0] == pytest.approx(val_losses(run)[24], abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"optim.optimizer": "muon", "model.value_embeddings": "alternate", "model.residual_scalars": True},
        {"train.checkpoint_format": "sharded"},
    ],
    ids=str,
)
def test_stopped_in_the_tail_and_resumed_equals_uninterrupted(config: RunConfig, options: dict):
    config = override(config, LAST | options | {"sample.interval": 7})
    whole = train(override(config, {"name": "whole"})).run_dir
    for number, step in enumerate((17, 18, 19, 22, 23)):
        train(config, resume=number > 0, display=SignalAt(step, signal.SIGTERM))
    assert train(config, resume=True).finished
    if "train.checkpoint_format" in options:
        assert val_losses(config.run_dir) == val_losses(whole)
        found, expected = (
            groundup.load(run, checkpoint="latest").model.state_dict() for run in (config.run_dir, whole)
        )
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    else:
        assert record(config.run_dir) == record(whole)


def test_a_longer_run_is_that_of_its_length(config: RunConfig):
    config = override(config, LAST | {"optim.schedule": "constant"})
    train(config)
    assert train(override(config, {"train.max_iters": 30}), resume=True).finished
    whole = train(override(config, {"name": "whole", "train.max_iters": 30})).run_dir
    assert record(config.run_dir) == record(whole)
    staged = override(config, {"train.max_iters": 34, "optim.stage_from": 30, "optim.stage_schedule": "linear"})
    run = train(staged, resume=True).run_dir
    assert first_averaged_step(staged) == 34
    assert json.loads((run / "checkpoints" / "step-34" / "state.json").read_text())["averaged"] == 1
    assert all(torch.equal(w, weights(run, 34, "optimizer")[f"{name}.raw"]) for name, w in weights(run, 34).items())


def test_by_the_clock_it_begins_with_the_last_part_of_the_time(config: RunConfig):
    config = override(config, {"train.average_last": 1.0, "train.max_minutes": 60.0, "train.finish_schedule": True})
    run = train(config).run_dir
    assert json.loads((run / "checkpoints" / "step-24" / "state.json").read_text())["averaged"] == 24


@pytest.mark.parametrize(("share", "steps", "first"), [(0.0, 30, 31), (0.1, 30, 28), (1.0, 30, 1), (0.001, 30, 30)])
def test_the_first_averaged_step(share: float, steps: int, first: int):
    assert first_averaged_step(RunConfig(train=TrainConfig(max_iters=steps, average_last=share))) == first


def test_what_it_takes_is_counted(config: RunConfig):
    config = override(config, {"model.vocab_size": 300})
    step = Step(config)
    step()
    size = sum(p.nbytes for p in step.model.parameters())
    assert allocated_at_most(lambda: update_average(step.optimizer, 1, 0.9)) == size
    memory, without = (
        step_memory(config.model, config.optim, TrainConfig(average_last=share), batch_size=4) for share in (0.1, 0.0)
    )
    assert memory.average == memory.peak - without.peak == size
    assert memory.checkpoint_copy - without.checkpoint_copy == size
    more = checkpoint_bytes(step.model, step.optimizer, averaged=True) - checkpoint_bytes(step.model, step.optimizer)
    assert more == size


def check_swapped(step: Step, own: list[torch.Tensor]) -> None:
    averages = [step.optimizer.state[p][AVERAGE] for p in step.model.parameters()]
    assert all(torch.equal(a, p) for a, p in zip(averages, own, strict=True))
    assert not all(torch.equal(p, before) for p, before in zip(step.model.parameters(), own, strict=True))
    raise ZeroDivisionError


def test_an_error_in_the_block_gives_the_weights_back(config: RunConfig):
    step = Step(override(config, {"model.vocab_size": 300}))
    step()
    update_average(step.optimizer, 1, 0.9)
    step()
    own = [p.detach().clone() for p in step.model.parameters()]
    with pytest.raises(ZeroDivisionError), averaged_weights(step.optimizer):
        check_swapped(step, own)
    assert all(torch.equal(p, before) for p, before in zip(step.model.parameters(), own, strict=True))


def test_it_is_dropped_where_an_adopted_option_ends_it(config: RunConfig, plain: Path):
    config = override(config, LAST)
    train(config, display=SignalAt(21, signal.SIGTERM))
    run = train(override(config, {"train.average_last": 0.0}), resume=True, adopt_config=True).run_dir
    assert all(torch.equal(w, weights(plain, 24)[name]) for name, w in weights(run, 24).items())
    assert weights(run, 24, "optimizer").keys() == weights(plain, 24, "optimizer").keys()
    assert RunDirectory(run).checkpoint("latest").name == "step-24"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"average_last": 1.5}, r"average_last = 1\.5; expected a share"),
        ({"average_last": -0.1}, r"average_last = -0\.1"),
        ({"average_decay": 1.0}, r"average_decay = 1\.0"),
    ],
)  # fmt: skip
def test_values_without_a_meaning_are_refused(options: dict, says: str):
    with pytest.raises(ConfigError, match=says):
        TrainConfig(**options)
