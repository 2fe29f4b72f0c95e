"""A signal in an evaluation or a sample: the steps are saved at once, and what was cut is made again."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.config import RunConfig, override, save_toml
from groundup.errors import ConfigError
from groundup.record.run import RunDirectory
from groundup.record.sinks import Silent
from groundup.train import logging, train
from groundup.train.build import build
from groundup.train.checkpoint import writer as writer_module
from groundup.train.checkpoint.folder import read_state
from groundup.train.checkpoint.writer import Checkpoints
from records import record


@pytest.fixture
def config(config: RunConfig) -> RunConfig:
    """Evaluations of several batches at 0, 8, 16 and 24; samples at 7, 14, 21 and 24."""
    return override(config, {"train.eval_batch_size": 2})


def at_batch(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Do something before the number-th batch that is evaluated from now on."""
    left, whole = [number], logging.evaluate_unless

    def counted(stop, *arguments):
        def stops() -> bool:
            left[0] -= 1
            if left[0] == 0:
                act()
            return stop()

        return whole(stops, *arguments)

    monkeypatch.setattr(logging, "evaluate_unless", counted)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


# Five batches an evaluation: before the first step, at 8, at 16 and after the last.
@pytest.mark.parametrize(("batch", "step"), [(1, 0), (4, 0), (6, 8), (12, 16), (16, 24), (19, 24)])
@pytest.mark.parametrize("background", [False, True], ids=["inline", "background"])
def test_a_signal_in_an_evaluation_saves_at_once_and_changes_nothing(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, batch: int, step: int, background: bool
):
    config = override(config, {"train.background_checkpoints": background})
    expected = record(train(override(config, {"name": "whole"})).run_dir)
    at_batch(monkeypatch, batch, terminate)
    stopped = train(config)
    monkeypatch.undo()
    assert (stopped.finished, stopped.signal, stopped.summary["step"]) == (False, signal.SIGTERM, step)
    run = RunDirectory(config.run_dir)
    assert run.checkpoint("latest").name == f"step-{step}"
    assert read_state(run.checkpoint("latest"))["due_line"] is not None
    lines = [json.loads(line)["step"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert step not in lines
    assert train(config, resume=True).finished
    assert record(config.run_dir) == expected
    assert read_state(run.checkpoint("latest"))["due_line"] is None


def test_cut_again_and_again_a_run_comes_to_the_same_end(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    expected = record(train(override(config, {"name": "whole"})).run_dir)
    result, resume, batch = None, False, 1
    while result is None or not result.finished:
        at_batch(monkeypatch, batch, terminate)
        result = train(config, resume=resume)
        monkeypatch.undo()
        resume, batch = True, batch % 7 + 1
    assert record(config.run_dir) == expected


@pytest.mark.parametrize("step", [7, 24])
def test_a_signal_in_a_sample_cuts_it_and_the_sample_is_made_again(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, step: int
):
    expected = record(train(override(config, {"name": "whole"})).run_dir)
    whole, text = logging.sample_line, logging.continue_text

    def cut(model, tokenizer, config, at, stop):
        def pieces(*arguments, **options):
            for piece in text(*arguments, **options):
                if at == step:
                    terminate()
                yield piece

        monkeypatch.setattr(logging, "continue_text", pieces)
        return whole(model, tokenizer, config, at, stop)

    monkeypatch.setattr(logging, "sample_line", cut)
    stopped = train(config)
    monkeypatch.undo()
    assert (stopped.finished, stopped.summary["step"]) == (False, step)
    assert read_state(RunDirectory(config.run_dir).checkpoint("latest"))["due_sample"] is True
    assert train(config, resume=True).finished
    assert record(config.run_dir) == expected


def test_terminated_in_the_last_evaluation_and_then_killed_leaves_the_last_step(config: RunConfig, tmp_path: Path):
    """What SLURM does: SIGTERM, and SIGKILL if that takes too long. Here the evaluation never ends by itself."""
    config = override(config, {"train.checkpoint_interval": 1000, "train.eval_interval": 1000, "sample.interval": 0})
    save_toml(config, tmp_path / "recipe.toml")
    program = (
        "import os, signal, sys, time, groundup.train.logging as r\n"
        "whole, calls = r.evaluate_unless, []\n"
        "def endless(stop, *rest):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 1: return whole(stop, *rest)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    while not stop(): time.sleep(0.01)\n"
        "    if sys.argv[1] == 'KILL': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return None\n"
        "r.evaluate_unless = endless\n"
        "from groundup.cli.main import main\n"
        f"main(['train', {str(tmp_path / 'recipe.toml')!r}])\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, "KILL"], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = RunDirectory(config.run_dir)
    assert run.checkpoint("latest").name == "step-24"
    assert train(config, resume=True).finished
    assert run.checkpoint("best").name == "step-24"


def test_no_more_than_the_time_between_checkpoints_is_unsaved(config: RunConfig):
    config = override(config, {"train.eval_interval": 1000, "train.checkpoint_interval": 1000})
    expected = record(train(override(config, {"name": "whole"})).run_dir)
    often = train(override(config, {"name": "often", "train.checkpoint_minutes": 1e-9})).run_dir
    assert RunDirectory(often).steps() == list(range(1, 25))
    assert record(often) == expected
    never = train(override(config, {"name": "never", "train.checkpoint_minutes": 0.0})).run_dir
    assert RunDirectory(never).steps() == [24]
    with pytest.raises(ConfigError, match="checkpoint_minutes"):
        override(config, {"train.checkpoint_minutes": -1.0})


def test_the_time_between_checkpoints_counts_from_the_last_one(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer_module.time, "monotonic", lambda: 100.0)
    trainer = build(override(config, {"train.checkpoint_minutes": 2.0}), "cpu")
    checkpoints = Checkpoints(trainer, None, clock=lambda: 0.0, saved=0)
    assert checkpoints.due_at == 220.0
    monkeypatch.setattr(writer_module.time, "monotonic", lambda: 500.0)
    checkpoints.save()
    assert checkpoints.due_at == 620.0


def test_a_step_saved_by_the_clock_resumes_as_it_was(config: RunConfig):
    expected = record(train(override(config, {"name": "whole"})).run_dir)

    class Dies(Silent):
        def step(self, step: int, loss: float) -> None:
            if step == 12:
                raise RuntimeError("power cut")

    timed = override(config, {"train.checkpoint_minutes": 1e-9, "train.checkpoint_interval": 1000})
    with pytest.raises(RuntimeError, match="power cut"):
        train(timed, display=Dies())
    assert RunDirectory(config.run_dir).checkpoint("latest").name == "step-11"
    assert train(config, resume=True).finished
    assert record(config.run_dir) == expected
