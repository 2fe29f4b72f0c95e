"""A checkpoint knows the options that it was made with; another config.toml is noticed, and adopted only on purpose."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from groundup.cli.main import main
from groundup.config import RunConfig, flatten, override, save_toml
from groundup.config.names import FIXED, RECORD, SPEED, effect_of
from groundup.errors import ConfigError
from groundup.record import read_object
from groundup.record.run import RunDirectory
from groundup.record.sinks import Silent
from groundup.train import evaluate_run, train
from groundup.train.checkpoint.folder import load_model, read_state, write_state
from records import record, without_hashes


@pytest.fixture
def begun(config: RunConfig) -> RunDirectory:
    """A run of 9 steps."""
    train(config, pause=lambda done: done >= 9)
    return RunDirectory(config.run_dir)


def edit(run: RunDirectory, **changes: object) -> RunConfig:
    """Another config.toml, as a person would write it."""
    names = {name.replace("__", "."): value for name, value in changes.items()}
    config = override(run.config, names)
    save_toml(config, run.path / "config.toml")
    return config


def test_the_options_are_in_the_checkpoint(begun: RunDirectory):
    options = read_state(begun.checkpoint("latest"))["options"]
    assert options == flatten(begun.config)


def test_an_edited_config_is_refused_with_the_list(begun: RunDirectory, capsys: pytest.CaptureFixture[str]):
    edit(begun, model__d_model=128, optim__beta2=0.5)
    with pytest.raises(SystemExit) as end:
        main(["train", "--resume", str(begun.path)])
    err = capsys.readouterr().err
    assert (end.value.code, err.count("\n")) == (2, 1)
    assert "model.d_model: 32 in the checkpoint, 128 in config.toml" in err
    assert "optim.beta2: 0.95 in the checkpoint, 0.5 in config.toml" in err


def test_an_adopted_option_is_used_and_recorded(begun: RunDirectory):
    config = edit(begun, optim__beta2=0.5)
    with pytest.raises(ConfigError, match="--adopt-config"):
        train(config, resume=True)
    assert train(config, resume=True, adopt_config=True, pause=lambda done: done >= 9).summary["step"] == 9
    # Killed at once, the change is in the checkpoint already: no other session has to adopt it.
    result = train(config, resume=True)
    change = {"step": 9, "option": "optim.beta2", "was": 0.95, "now": 0.5}
    assert result.finished
    assert result.summary["adopted_options"] == [change]
    assert read_object(begun.path / "summary.json")["adopted_options"] == [change]
    state = read_state(begun.checkpoint("latest"))
    assert (state["adopted"], state["options"]["optim.beta2"]) == ([change], 0.5)
    other = train(override(config, {"name": "other", "optim.beta2": 0.95})).run_dir
    assert record(begun.path)[3] != record(other)[3]


@pytest.mark.parametrize("name", FIXED)
def test_what_decides_the_tensors_is_never_adopted(begun: RunDirectory, name: str):
    values = {
        "model.vocab_size": 400, "model.d_model": 64, "model.num_layers": 3, "model.num_heads": 4,
        "model.num_kv_heads": 1, "model.head_size": 8, "model.d_ff": 64, "model.norm": "none", "model.ffn": "silu",
        "optim.optimizer": "muon", "model.norm_gains": False,
        "model.value_embeddings": "alternate",
    }  # fmt: skip
    config = override(begun.config, {name: values.get(name, True)})  # switches are off by default
    with pytest.raises(ConfigError, match=re.escape(name)):
        train(config, resume=True, adopt_config=True)


def test_speed_and_record_change_freely(begun: RunDirectory, config: RunConfig):
    expected = record(train(override(config, {"name": "whole"})).run_dir)
    changed = edit(begun, train__keep_checkpoints=5, train__checkpoint_minutes=3.0, train__checkpoint_interval=7)
    assert train(changed, resume=True).finished
    assert record(begun.path) == expected


def test_a_config_that_was_put_back_is_no_change(begun: RunDirectory, config: RunConfig):
    original = begun.config
    edit(begun, optim__beta2=0.5)
    assert train(original, resume=True).finished
    assert begun.config == original


def test_an_older_checkpoint_without_options_is_compared_with_its_config(begun: RunDirectory):
    for folder in begun.checkpoints.glob("step-*"):
        state = read_object(folder / "state.json")
        del state["options"]
        write_state(folder, state)
    config = begun.config
    with pytest.raises(ConfigError, match=r"optim\.beta2 \(was 0\.95, now 0\.5\)"):
        train(override(config, {"optim.beta2": 0.5}), resume=True)
    assert train(config, resume=True).finished
    assert "options" in read_state(begun.checkpoint("latest"))


def test_an_option_is_adopted_into_a_checkpoint_of_version_0_1(begun: RunDirectory):
    for folder in begun.checkpoints.glob("step-*"):
        without_hashes(folder)
    config = override(begun.config, {"optim.beta2": 0.5})
    assert train(config, resume=True, adopt_config=True, pause=lambda done: done >= 9).signal is None
    assert read_state(begun.checkpoint("latest"))["adopted"]
    load_model(begun, "latest")
    assert train(config, resume=True).finished


def test_a_finished_run_adopts_nothing(begun: RunDirectory):
    train(begun.config, resume=True)
    before = read_state(begun.checkpoint("latest"))
    with pytest.raises(ConfigError, match=r"no step is left that train\.seed would change"):
        train(override(begun.config, {"train.seed": 5}), resume=True, adopt_config=True)
    assert read_state(begun.checkpoint("latest")) == before


@pytest.mark.parametrize(("option", "value"), [("num_heads", 4), ("norm_eps", 1.0), ("context_length", 8)])
def test_a_model_is_the_one_that_was_trained_whatever_config_toml_says(begun: RunDirectory, option: str, value: float):
    expected = evaluate_run(begun.path, "latest")
    config = override(begun.config, {f"model.{option}": value})
    save_toml(config, begun.path / "config.toml")
    assert evaluate_run(begun.path, "latest") == expected


def test_options_that_may_change_are_told(begun: RunDirectory):
    notes: list[str] = []

    class Notes(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    config = override(begun.config, {"train.log_interval": 7, "train.max_minutes": 5.0})
    assert train(config, resume=True, display=Notes()).finished
    (told,) = [note for note in notes if "checkpoint" in note]
    assert "train.log_interval" in told
    assert "-> 7" in told
    assert "max_minutes" not in told


def test_an_option_that_came_after_the_checkpoint_counts_as_its_default(begun: RunDirectory):
    for folder in begun.checkpoints.glob("step-*"):
        state = read_object(folder / "state.json")
        del state["options"]["optim.decay_fraction"]
        write_state(folder, state)
    with pytest.raises(ConfigError, match=r"optim\.decay_fraction"):
        train(override(begun.config, {"optim.decay_fraction": 0.3}), resume=True)
    assert train(begun.config, resume=True).finished


def test_every_option_has_one_effect_and_every_name_is_an_option():
    names = set(flatten(RunConfig()))
    for name in (*SPEED, *RECORD, *FIXED):
        assert name in names or (name.endswith(".") and any(other.startswith(name) for other in names)), name
    assert not set(SPEED) & set(RECORD)
    assert all(effect_of(name) == "result" for name in FIXED)
    for name, effect in {
        "optim.beta2": "result", "data.batch_size": "result", "train.seed": "result", "train.max_iters": "result",
        "data.micro_batch_size": "speed", "train.device": "speed", "sample.tokens": "record",
        "train.log_interval": "record", "data.train": "record", "track.wandb": "record",
    }.items():  # fmt: skip
        assert effect_of(name) == effect


def test_adopting_without_resuming_is_one_line(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["train", "demo", "--adopt-config"])
    err = capsys.readouterr().err
    assert (end.value.code, err.count("\n"), "--resume" in err) == (2, 1, True)


OLD = Path(__file__).with_name("run_0_1")


def test_a_run_begun_by_version_0_1_is_resumed(tmp_path: Path):
    """Its checkpoint has no options, and nothing in its state says what is due."""
    rng = np.random.default_rng(0)
    for name, size in (("train", 3000), ("valid", 600)):
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 60, size).astype(np.uint16))
    run = tmp_path / "old"
    shutil.copytree(OLD, run)
    state = read_state(run / "checkpoints" / "step-7")
    assert "options" not in state
    data = {"data.train": str(tmp_path / "train.npy"), "data.valid": str(tmp_path / "valid.npy")}
    config = override(RunDirectory(run).config, data | {"name": "old", "runs_dir": str(tmp_path)})
    fresh = record(train(override(config, {"name": "fresh"})).run_dir)
    assert train(config, resume=True).finished
    resumed = record(run)
    # Another processor rounds differently from the one that made the first seven steps.
    for line, expected in zip(resumed[0], fresh[0], strict=True):
        assert line.keys() == expected.keys()
        numbers = {name: value for name, value in expected.items() if value is not None}
        assert {name: line[name] for name in numbers} == pytest.approx(numbers, rel=1e-3)
    assert resumed[2] == fresh[2]
