"""`--minutes N`: the schedule ends at the deadline, whatever the speed, with time kept for what comes after."""

import re
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import groundup
from groundup.cli.main import main
from groundup.config import OptimConfig, RunConfig, override, save_toml
from groundup.errors import ConfigError
from groundup.optim.schedule import learning_rate_at
from groundup.record.run import RunDirectory
from groundup.record.sinks import read_jsonl
from groundup.train.limits import Deadline


class Clock:
    """Seconds that pass only when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def session(
    seconds_of,
    minutes: float,
    *,
    report: float = 0.0,
    every: int = 10**9,
    writing: float = 0.0,
    used: float = 0.0,
    reached: float = 0.0,
) -> tuple[list[float], float]:
    """Progress at each step as the loop asks for it, and the seconds until the last checkpoint is written."""
    clock = Clock()
    deadline = Deadline(minutes, used=used, reached=reached, interval=every, clock=clock)

    def evaluate() -> None:
        with deadline.report():
            clock.now += report

    if not reached:
        evaluate()
    found: list[float] = []
    while not found or found[-1] < 1:
        found.append(deadline.progress(writing))
        clock.now += seconds_of(len(found))
        if found[-1] < 1 and len(found) % every == 0:
            evaluate()
    evaluate()
    clock.now += writing
    return found, clock.now - 1000.0


def test_steps_of_one_length_fill_the_time_evaluations_and_the_last_checkpoint_included():
    progress, seconds = session(lambda _: 0.5, 2.0, report=3.0, every=40, writing=4.0)
    assert seconds == pytest.approx(120, abs=3.0)
    assert progress == sorted(progress)
    assert progress[-1] == 1.0


@given(
    before=st.floats(0.02, 2.0), after=st.floats(0.02, 2.0), report=st.floats(0, 4), first=st.floats(0, 30),
    minutes=st.floats(1.5, 6.0),
)  # fmt: skip
def test_the_schedule_ends_at_the_deadline_though_the_speed_changes(before, after, report, first, minutes):
    def seconds_of(step: int) -> float:
        return first + before if step == 1 else before if step < 30 else after

    progress, seconds = session(seconds_of, minutes, report=report, every=50)
    # A step may begin half a step before the end; an evaluation may come just then.
    assert abs(seconds - 60 * minutes) <= 2 * max(before, after) + 2 * report + 0.1
    assert progress == sorted(progress)
    assert progress.count(1.0) == 1


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_every_schedule_climbs_and_comes_down(schedule):
    optim = OptimConfig(schedule=schedule, max_learning_rate=1e-2, min_learning_rate=1e-4, warmup_iters=100)
    progress, _ = session(lambda _: 0.1, 1.0)
    rates = [learning_rate_at(p, 1000, optim) for p in progress]
    assert rates[-1] == (1e-2 if schedule == "constant" else 1e-4)
    assert max(rates) == pytest.approx(1e-2, rel=0.02)
    climb = rates.index(max(rates)) / len(rates)
    assert climb == pytest.approx(0.1, abs=0.02)  # its share of max_iters
    # A run of as many steps has the same rates, nearly.
    plain = [learning_rate_at((i + 1) / len(rates), 1000, optim) for i in range(len(rates))]
    assert statistics.fmean(abs(a - b) for a, b in zip(rates, plain, strict=True)) < 1e-4


def test_compilation_in_the_first_step_takes_no_part_of_the_schedule():
    progress, seconds = session(lambda step: 30.0 if step == 1 else 0.1, 1.0)
    assert progress[2] < 0.01
    assert seconds == pytest.approx(60, abs=0.2)


def test_a_resumed_run_has_what_is_left_of_its_minutes():
    progress, seconds = session(lambda _: 0.5, 2.0, used=90.0, reached=0.6)
    assert seconds == pytest.approx(30, abs=0.6)
    assert progress[0] >= 0.6
    assert session(lambda _: 0.5, 2.0, used=500.0, reached=0.6)[0] == [1.0]


def groundup_train(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(["train", *arguments])
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out + captured.err


def test_a_run_by_minutes_ends_finished_and_its_steps_pass_those_of_the_recipe(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    save_toml(override(config, {"train.log_interval": 1, "train.keep_checkpoints": 1}), tmp_path / "recipe.toml")
    recipe = str(tmp_path / "recipe.toml")
    code, out = groundup_train(recipe, "--minutes", "0.02", "--dry-run", capsys=capsys)
    assert code == 0
    assert re.search(r"length +0\.02 minutes in all", out)
    assert re.search(r"training +0\.02 minutes in all: about [\d,]+ steps at this speed", out)
    code, out = groundup_train(recipe, "--minutes", "0.02", "--stop_at", "5", capsys=capsys)
    assert code == 0
    code, out = groundup_train("--resume", str(config.run_dir), capsys=capsys)
    assert code == 0
    assert "train.minutes = 0.02: the schedule has ended; stopped at step" in out
    assert "done: best validation loss" in out
    lines = list(read_jsonl(config.run_dir / "metrics.jsonl"))
    assert [line["step"] for line in lines] == list(range(len(lines)))
    assert lines[-1]["lr"] == config.optim.min_learning_rate
    assert "val_loss" in lines[-1]
    assert RunDirectory(config.run_dir).config.train.minutes == 0.02
    # It has nothing left, and cannot become longer.
    code, out = groundup_train("--resume", str(config.run_dir), capsys=capsys)
    assert (code, "done: best validation loss" in out) == (0, True)
    assert list(read_jsonl(config.run_dir / "metrics.jsonl")) == lines
    code, out = groundup_train("--resume", str(config.run_dir), "--max_iters", "100000", capsys=capsys)
    assert (code, "train.minutes" in out) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--minutes", "5", "--max_iters", "10"], "--minutes and --max_iters are two lengths for one run"),
        (["--minutes", "0"], "--minutes 0; expected a positive number"),
        (["--minutes", "-3"], "train.minutes = -3.0; expected a finite number"),
        (["--minutes", "nan"], "train.minutes = nan; expected a finite number"),
        (["--minutes", "inf"], "train.minutes = inf; expected a finite number"),
        (["--minutes", "soon"], "soon"),
        (["--minutes", "5", "--finish_schedule", "--max_minutes", "5"], "leave train.finish_schedule out"),
        (["--minutes", "5", "--stage_from", "10"], "optim.stage_from = 10 counts steps"),
    ],
)
def test_lengths_that_contradict_are_refused_in_one_line(
    config: RunConfig, tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    save_toml(config, tmp_path / "recipe.toml")
    code, out = groundup_train(str(tmp_path / "recipe.toml"), *arguments, capsys=capsys)
    assert code == 2
    assert said in out
    assert len(out.strip().splitlines()) == 1
    assert not config.run_dir.exists()


def test_python_refuses_two_lengths_too(config: RunConfig):
    with pytest.raises(ConfigError, match="two lengths"):
        groundup.train(config, minutes=1, max_iters=5)
