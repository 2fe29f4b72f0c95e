"""A run with a limit of time ends within it, with a checkpoint, and with its schedule finished if that was asked."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.cli.main import main
from groundup.config import OptimConfig, RunConfig, TrainConfig, override, save_toml
from groundup.optim.schedule import learning_rate_at
from groundup.record.run import RunDirectory
from groundup.record.sinks import read_jsonl
from groundup.train.limits import TimeLimit


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def session(
    config: TrainConfig, durations: list[float], reached: float = 0.0, done: int = 0
) -> tuple[list[float], float]:
    """Progress at each step of a session, as the loop asks for it, and the seconds that it took."""
    clock = Clock()
    limit = TimeLimit(config, reached, clock)
    progress: list[float] = []
    for i in range(config.max_iters - done):
        if limit.passed:
            break
        progress.append(limit.progress((done + i + 1) / config.max_iters))
        clock.now += durations[i % len(durations)]
    return progress, clock.now - 1000.0


durations = st.lists(st.floats(0.01, 50.0), min_size=1, max_size=20)


@given(durations=durations)
def test_without_a_limit_a_run_is_as_far_as_its_steps(durations: list[float]):
    config = TrainConfig(max_iters=30)
    assert session(config, durations)[0] == [(i + 1) / 30 for i in range(30)]


@given(durations=durations, minutes=st.floats(0.05, 3.0))
def test_with_a_limit_no_step_begins_after_it(durations: list[float], minutes: float):
    config = TrainConfig(max_iters=10_000, max_minutes=minutes)
    progress, seconds = session(config, durations)
    assert progress == [(i + 1) / 10_000 for i in range(len(progress))]
    if len(progress) < 10_000:
        last = durations[(len(progress) - 1) % len(durations)]
        began = seconds - last  # to rounding
        assert began - 1e-9 < 60 * minutes <= seconds


@given(
    durations=durations,
    minutes=st.floats(0.05, 3.0),
    reached=st.one_of(st.just(0.0), st.floats(0.0, 0.99)),
    steps=st.sampled_from([1, 7, 100, 100_000]),
)
def test_a_schedule_that_finishes_by_the_clock_comes_down_all_the_way(
    durations: list[float], minutes: float, reached: float, steps: int
):
    config = TrainConfig(max_iters=steps, max_minutes=minutes, finish_schedule=True)
    progress, seconds = session(config, durations, reached)
    assert reached <= progress[0]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert progress.count(1.0) == 1
    assert seconds <= 60 * minutes + 2 * max(durations)
    optim = OptimConfig(max_learning_rate=1e-2, min_learning_rate=1e-4, warmup_iters=0)
    rates = [learning_rate_at(p, steps, optim) for p in progress]
    assert rates[-1] == 1e-4
    assert rates == sorted(rates, reverse=True)


def test_steps_of_one_length_finish_exactly_in_time():
    config = TrainConfig(max_iters=10_000, max_minutes=1.0, finish_schedule=True)
    progress, seconds = session(config, [1.0])
    assert (len(progress), seconds) == (60, 60.0)


def test_a_schedule_that_is_finished_has_no_further_steps():
    config = TrainConfig(max_iters=100, max_minutes=1.0, finish_schedule=True)
    assert session(config, [1.0], reached=1.0, done=40) == ([], 0.0)


def recipe(config: RunConfig, tmp_path: Path, **changes: object) -> str:
    """A run of more steps than there is time for."""
    options = {"train.max_iters": 1_000_000, "train.eval_interval": 50, "train.checkpoint_interval": 200,
               "train.log_interval": 1, "sample.interval": 0, "train.keep_checkpoints": 1}  # fmt: skip
    save_toml(override(config, options | changes), tmp_path / "recipe.toml")
    return str(tmp_path / "recipe.toml")


def groundup(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0), capsys.readouterr().out


def test_time_that_is_up_ends_a_run_with_a_checkpoint_to_go_on_from(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, out = groundup("train", recipe(config, tmp_path), "--max_minutes", "0.02", capsys=capsys)
    assert code == 0
    told = re.search(r"train\.max_minutes = 0\.02: the time is up; stopped at step ([\d,]+); its checkpoint", out)
    assert told
    step = int(told[1].replace(",", ""))
    assert f"resume with\n  groundup train --resume {config.run_dir}" in out
    assert RunDirectory(config.run_dir).checkpoint("latest").name == f"step-{step}"
    summary = json.loads((config.run_dir / "summary.json").read_text())
    assert (summary["finished"], summary["step"]) == (False, step)
    code, out = groundup("train", "--resume", str(config.run_dir), "--max_minutes", "0.005", capsys=capsys)
    assert (code, f"resuming from step {step:,}" in out) == (0, True)
    steps = [line["step"] for line in read_jsonl(config.run_dir / "metrics.jsonl")]
    assert steps == list(range(len(steps)))
    assert len(steps) > step + 1


@pytest.mark.parametrize("finish", [[], ["--finish_schedule"]], ids=["", "finish"])
def test_a_run_that_makes_all_its_steps_in_time_says_nothing_of_the_time(
    config: RunConfig, tmp_path: Path, finish: list[str], capsys: pytest.CaptureFixture[str]
):
    save_toml(config, tmp_path / "recipe.toml")
    code, out = groundup("train", str(tmp_path / "recipe.toml"), "--max_minutes", "60", *finish, capsys=capsys)
    assert (code, "max_minutes" in out, "done: best validation loss" in out) == (0, False, True)
    assert list(read_jsonl(config.run_dir / "metrics.jsonl"))[-1]["step"] == 24


def test_a_schedule_finished_by_the_clock_is_a_finished_run(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, out = groundup("train", recipe(config, tmp_path), "--max_minutes", "0.02", "--finish_schedule", capsys=capsys)
    assert code == 0
    assert "train.max_minutes = 0.02: the schedule has ended; stopped at step" in out
    assert "done: best validation loss" in out
    lines = list(read_jsonl(config.run_dir / "metrics.jsonl"))
    assert lines[-1]["lr"] == config.optim.min_learning_rate
    assert "val_loss" in lines[-1]
    summary = json.loads((config.run_dir / "summary.json").read_text())
    assert (summary["finished"], summary["step"]) == (True, lines[-1]["step"])
    assert RunDirectory(config.run_dir).checkpoint("latest").name == f"step-{lines[-1]['step']}"
    code, out = groundup("train", "--resume", str(config.run_dir), capsys=capsys)
    assert (code, "done: best validation loss" in out) == (0, True)
    assert list(read_jsonl(config.run_dir / "metrics.jsonl")) == lines
