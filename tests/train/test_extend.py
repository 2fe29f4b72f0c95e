"""A run that stops inside its schedule, or gets a longer one, is the run that had that schedule from the start."""

import dataclasses
import re
import shutil

import pytest

from groundup.cli.main import main
from groundup.config import RunConfig, override, save_toml
from groundup.errors import CheckpointError, ConfigError
from groundup.record import read_object
from groundup.record.run import RunDirectory
from groundup.record.sinks import Silent
from groundup.train import train
from records import record


class Notes(Silent):
    """Remembers the lines that a run shows."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def command(*arguments: object) -> int:
    """Exit code of `groundup train` with these arguments."""
    with pytest.raises(SystemExit) as end:
        main(["train", *map(str, arguments)])
    return int(end.value.code or 0)


# Stop inside a schedule


@pytest.mark.parametrize("step", [1, 8, 13])
def test_a_run_stopped_at_a_step_goes_on_as_if_it_had_not(config: RunConfig, step: int):
    whole = record(train(override(config, {"name": "whole"})).run_dir)
    save_toml(override(config, {"train.stop_at": step}), config.run_dir.with_suffix(".toml"))
    assert command(config.run_dir.with_suffix(".toml")) == 0
    assert RunDirectory(config.run_dir).checkpoint("latest").name == f"step-{step}"
    assert read_object(config.run_dir / "summary.json")["finished"] is False
    assert command("--resume", config.run_dir) == 0  # config.toml still has the step: it is reached, and stops nothing
    assert record(config.run_dir) == whole


def test_a_later_session_stops_at_another_step(config: RunConfig):
    train(override(config, {"train.stop_at": 5}))
    assert command("--resume", config.run_dir, "--stop_at", 9) == 0
    assert RunDirectory(config.run_dir).checkpoint("latest").name == "step-9"
    notes = Notes()
    stopped = train(override(config, {"train.stop_at": 5}), resume=True, display=notes)
    assert stopped.finished
    assert any("stop_at = 5 has passed" in line for line in notes.lines)


def test_a_step_after_the_schedule_is_no_step_to_stop_at(config: RunConfig):
    with pytest.raises(ConfigError, match=r"train\.stop_at = 25; expected .* at most train\.max_iters = 24"):
        override(config, {"train.stop_at": 25})


# Extend a schedule


def long_run(config: RunConfig, steps: int = 48, **options: object) -> list:
    """The record of a run with this many steps from the start."""
    return record(train(override(config, {"name": "whole", "train.max_iters": steps} | options)).run_dir)


@pytest.mark.parametrize(
    ("schedule", "start", "optimizer"), [("wsd", 16, "adamw"), ("wsd", 16, "muon"), ("constant", 24, "adamw")]
)
def test_a_finished_run_that_is_extended_is_the_longer_run(
    config: RunConfig, schedule: str, start: int, optimizer: str
):
    config = override(config, {"optim.schedule": schedule, "optim.decay_fraction": 0.3, "optim.optimizer": optimizer})
    short = train(config)
    assert short.finished
    notes = Notes()
    result = train(override(config, {"train.max_iters": 48}), resume=True, display=notes)
    assert (result.finished, result.summary["step"]) == (True, 48)
    assert any(f"going on after step {start}" in line for line in notes.lines)
    assert record(config.run_dir) == long_run(config)
    assert RunDirectory(config.run_dir).config.train.max_iters == 48
    change = {"step": start, "option": "train.max_iters", "was": 24, "now": 48}
    assert result.summary["adopted_options"] == [change]


def test_with_the_default_of_two_checkpoints_the_one_before_the_decay_is_kept(config: RunConfig):
    config = override(config, {"optim.schedule": "wsd", "train.keep_checkpoints": 1, "train.checkpoint_interval": 1})
    train(config)
    assert RunDirectory(config.run_dir).steps()[0] == 19  # of 24 steps the last 20 % decay
    longer = override(config, {"train.max_iters": 48})
    assert train(longer, resume=True).finished
    assert record(config.run_dir) == long_run(config)
    assert 19 not in RunDirectory(config.run_dir).steps()
    assert 38 in RunDirectory(config.run_dir).steps()


@pytest.mark.parametrize(
    ("kind", "interval"),
    [("train.log_interval", 24), ("train.log_interval", 7), ("train.eval_interval", 24), ("sample.interval", 8)],
)
def test_the_report_of_a_constant_runs_last_step_is_taken_back(config: RunConfig, kind: str, interval: int):
    """The short run logs, evaluates and samples after its last step; the long run does so only where it is due."""
    config = override(
        config, {"optim.schedule": "constant", kind: interval, "train.keep_checkpoints": 1, "train.ratio_interval": 6}
    )
    train(config)
    train(override(config, {"train.max_iters": 30}), resume=True)
    extended, whole = record(config.run_dir), long_run(config, 30)
    assert extended[0] == whole[0]
    assert extended[1] == whole[1]
    assert extended[3:] == whole[3:]


@pytest.mark.parametrize("stop", [9, 22])
def test_an_unfinished_run_is_extended_from_where_it_is_unless_it_decays(config: RunConfig, stop: int):
    config = override(config, {"optim.schedule": "wsd"})
    train(config, pause=lambda done: done >= stop)
    longer = override(config, {"train.max_iters": 48})
    notes = Notes()
    train(longer, resume=True, display=notes, pause=lambda done: done >= 30)
    assert any(f"going on after step {min(stop, 19)}" in line for line in notes.lines)
    assert train(longer, resume=True).finished
    assert record(config.run_dir) == long_run(config)


def test_a_run_is_extended_twice(config: RunConfig):
    config = override(config, {"optim.schedule": "wsd", "train.keep_checkpoints": 2})
    train(config)
    assert command("--resume", config.run_dir, "--max_iters", 36) == 0
    assert command("--resume", config.run_dir, "--max_iters", 48) == 0
    whole = long_run(config)
    assert record(config.run_dir)[:2] == whole[:2]
    assert record(config.run_dir)[3:] == whole[3:]


@pytest.mark.parametrize("total", [49, 107])
def test_rates_of_the_warm_up_do_not_depend_on_the_length_by_a_bit(config: RunConfig, total: int):
    """k / n * n is not always k."""
    config = override(
        config, {"optim.schedule": "constant", "optim.warmup_iters": 24, "train.log_interval": 1, "sample.interval": 0}
    )
    rates = []
    for name, steps in (("short", 24), ("long", total)):
        run = train(override(config, {"name": name, "train.max_iters": steps}), pause=lambda done: done >= 24).run_dir
        rates.append([line["lr"] for line in record(run)[0] if "lr" in line])
    assert rates[0] == rates[1] == [k / 24 * 1e-2 for k in range(1, 25)]


def test_a_summary_of_the_shorter_run_is_gone_while_the_longer_one_is_trained(config: RunConfig):
    config = override(config, {"optim.schedule": "constant"})
    train(config)
    seen = []

    class Look(Silent):
        def step(self, step: int, loss: float) -> None:
            seen.append((config.run_dir / "summary.json").exists())

    train(override(config, {"train.max_iters": 26}), resume=True, display=Look())
    assert seen == [False, False]
    assert read_object(config.run_dir / "summary.json")["step"] == 26


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_schedule_that_depends_on_its_length_is_not_extended(config: RunConfig, schedule: str):
    config = override(config, {"optim.schedule": schedule})
    before, written = record(train(config).run_dir), RunDirectory(config.run_dir).config
    with pytest.raises(ConfigError, match=f"from 24 to 48 steps: a longer {schedule} schedule"):
        train(override(config, {"train.max_iters": 48}), resume=True)
    assert record(config.run_dir) == before
    assert RunDirectory(config.run_dir).config == written
    assert read_object(config.run_dir / "summary.json")["finished"]


def test_without_a_checkpoint_before_the_decay_it_is_refused(config: RunConfig):
    config = override(config, {"optim.schedule": "wsd"})
    train(config)
    run = RunDirectory(config.run_dir)
    for step in run.steps():
        if step <= 19:
            shutil.rmtree(run.step_folder(step))
    with pytest.raises(ConfigError, match=r"decays after step 19, and no .* left \(there are 24"):
        train(override(config, {"train.max_iters": 48}), resume=True)
    assert run.steps() == [24]


def test_a_damaged_start_leaves_the_run_as_it_was(config: RunConfig):
    config = override(config, {"optim.schedule": "wsd"})
    run = RunDirectory(train(config).run_dir)
    (run.step_folder(19) / "optimizer.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"step-19.optimizer\.safetensors was changed"):
        train(override(config, {"train.max_iters": 48}), resume=True)
    assert run.config.train.max_iters == 24
    assert read_object(run.path / "summary.json")["finished"]
    assert 24 in run.steps()
    assert train(config, resume=True).finished


def test_a_checkpoint_with_other_options_is_no_start(config: RunConfig):
    """An option that was adopted after the plateau's end has not been that of the steps before."""
    config = override(config, {"optim.schedule": "wsd"})
    train(config, pause=lambda done: done >= 21)
    other = override(config, {"optim.beta2": 0.5})
    assert train(other, resume=True, adopt_config=True).finished
    with pytest.raises(ConfigError, match="no checkpoint from before is left"):
        train(override(other, {"train.max_iters": 48}), resume=True)


def test_a_run_by_the_clock_is_not_extended(config: RunConfig):
    config = override(config, {"optim.schedule": "constant", "train.max_minutes": 1.0, "train.finish_schedule": True})
    train(config)
    with pytest.raises(ConfigError, match="followed the time"):
        train(override(config, {"train.max_iters": 48}), resume=True)


def test_fewer_steps_and_more_with_another_option_are_refused(config: RunConfig):
    config = override(config, {"optim.schedule": "wsd"})
    train(config)
    for values in ({"train.max_iters": 20}, {"train.max_iters": 48, "optim.beta2": 0.5}):
        with pytest.raises(ConfigError, match=r"train\.max_iters \(was 24, now"):
            train(override(config, values), resume=True)


# A second stage


@pytest.mark.parametrize(("first", "then"), [("cosine", "linear"), ("linear", "wsd"), ("wsd", "constant")])
def test_a_stage_after_a_finished_run_is_the_run_that_had_both_from_the_start(config: RunConfig, first: str, then: str):
    config = override(config, {"optim.schedule": first})
    before = record(train(config).run_dir)[0]
    more = ("--max_iters", 40, "--stage_learning_rate", 0.005, "--stage_warmup_iters", 2)
    assert command("--resume", config.run_dir, "--then", then, *more) == 0
    run = RunDirectory(config.run_dir)
    optim = run.config.optim
    assert (optim.stage_from, optim.stage_schedule, optim.schedule) == (24, then, first)
    assert record(run.path) == record(train(dataclasses.replace(run.config, name="whole")).run_dir)
    assert record(run.path)[0][: len(before)] == before
    names = [change["option"] for change in read_object(run.path / "summary.json")["adopted_options"]]
    assert {"train.max_iters", "optim.stage_from", "optim.stage_learning_rate"} <= set(names)


def test_a_stage_stopped_and_resumed_equals_one_that_was_not(config: RunConfig):
    train(config)
    staged = override(config, {"train.max_iters": 40, "optim.stage_from": 24, "optim.stage_schedule": "wsd"})
    for stop in (24, 25, 33):
        train(staged, resume=True, pause=lambda done, stop=stop: done >= stop)
    assert command("--resume", config.run_dir) == 0
    assert record(config.run_dir) == record(train(override(staged, {"name": "whole"})).run_dir)


def test_the_same_command_again_goes_on_with_the_stage(config: RunConfig):
    train(config)
    again = ("--resume", config.run_dir, "--then", "linear", "--max_iters", 40)
    assert command(*again, "--stop_at", 30) == 0
    assert command(*again) == 0
    assert read_object(config.run_dir / "summary.json")["step"] == 40


def test_a_stage_of_wsd_is_extended_exactly(config: RunConfig):
    train(config)
    assert command("--resume", config.run_dir, "--then", "wsd", "--max_iters", 34) == 0
    assert command("--resume", config.run_dir, "--max_iters", 44) == 0
    whole = dataclasses.replace(RunDirectory(config.run_dir).config, name="whole")
    assert whole.optim.stage_from == 24
    assert record(config.run_dir) == record(train(whole).run_dir)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--then", "linear"], "leaves no step for the second stage.*--max_iters"),
        (["--then", "cosine", "--max_iters", "40"], "stage_schedule = 'cosine'; expected one of 'wsd', 'linear'"),
        (["--then", "linear", "--max_iters", "40", "--adopt-config"], "leave --adopt-config out"),
        (["--then", "linear", "--max_iters", "40", "--beta2", "0.5"], r"optim\.beta2 \(was 0\.95, now 0\.5\)"),
        (["--max_iters", "40"], "--then linear, wsd or constant .* after step 24, .* --init"),
    ],
)
def test_what_makes_no_stage_is_one_line(
    config: RunConfig, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
):
    train(config)
    before = record(config.run_dir)
    capsys.readouterr()
    assert command("--resume", config.run_dir, *arguments) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert re.search(says, told)
    assert record(config.run_dir) == before
    assert RunDirectory(config.run_dir).config.train.max_iters == 24


def test_a_stage_needs_a_finished_run_without_one(config: RunConfig, capsys: pytest.CaptureFixture[str]):
    train(config, pause=lambda done: done >= 9)
    with_stage = ("--resume", config.run_dir, "--then", "linear", "--max_iters", 40)
    assert command(*with_stage) == 2
    assert "is not finished: step 9 of 24" in capsys.readouterr().err
    train(config, resume=True)
    assert command(*with_stage) == 0
    capsys.readouterr()
    assert command("--resume", config.run_dir, "--max_iters", 48) == 2
    assert "a longer linear schedule" in capsys.readouterr().err
    staged = RunDirectory(config.run_dir).config
    with pytest.raises(ConfigError, match="has a second stage already, after step 24"):
        train(override(staged, {"optim.stage_from": 40, "train.max_iters": 48}), resume=True)
    for more in (("linear", "--max_iters", 60), ("wsd", "--max_iters", 48), ("constant",)):
        assert command("--resume", config.run_dir, "--then", *more) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert f"--init {config.run_dir}" in told
        assert "--adopt-config" not in told
    assert command("--then", "linear") == 2
    assert "--resume RUN" in capsys.readouterr().err


def test_other_options_of_a_stage_are_adopted_in_place_of_then(config: RunConfig, capsys: pytest.CaptureFixture[str]):
    train(config)
    assert command("--resume", config.run_dir, "--then", "linear", "--max_iters", 40, "--stop_at", 30) == 0
    capsys.readouterr()
    assert command("--resume", config.run_dir, "--then", "wsd", "--max_iters", 44) == 2
    told = capsys.readouterr().err
    assert "optim.stage_schedule (was 'linear', now 'wsd')" in told
    assert "--adopt-config and these options in place of --then" in told
    assert command("--resume", config.run_dir, "--stage_schedule", "wsd", "--max_iters", 44, "--adopt-config") == 0
    assert read_object(config.run_dir / "summary.json")["step"] == 44
