"""Training to a deadline: by the plan where the machine keeps to it, by elapsed time where it does not."""

import itertools
import json
from pathlib import Path

import pytest

from groundup.config import RunConfig, override
from groundup.display.console import ConsoleDisplay
from groundup.record.run import RunDirectory
from groundup.record.sinks import read_jsonl
from groundup.train import in_time, train, train_in_time
from groundup.train.in_time import is_behind

CLOCKS = ("wall_seconds", "tokens_per_second", "peak_memory", "mfu")


def metrics(run: Path) -> list[dict[str, object]]:
    return [
        {name: value for name, value in line.items() if name not in CLOCKS}
        for line in read_jsonl(run / "metrics.jsonl")
    ]


def test_a_run_that_keeps_to_its_plan_is_the_same_as_without_a_limit(config: RunConfig, tmp_path: Path):
    plain = train(config)
    timely = train_in_time(override(config, {"name": "timely"}), planned=1e6, limit=2e6, display=ConsoleDisplay())
    assert timely.finished
    assert metrics(timely.run_dir) == metrics(plain.run_dir)
    assert RunDirectory(timely.run_dir).config.train == config.train


def test_a_run_that_falls_behind_ends_in_time_with_a_finished_schedule(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
):
    seconds = itertools.count()  # each look at the clock takes one; ten were planned for all steps
    steps = 100_000
    slow = override(
        config, {"train.max_iters": steps, "train.checkpoint_interval": steps, "train.eval_interval": steps}
    )
    result = train_in_time(slow, planned=10, limit=5, display=ConsoleDisplay(), clock=lambda: float(next(seconds)))
    assert result.finished
    assert result.summary["step"] < steps
    last = metrics(result.run_dir)[-1]
    assert last["lr"] == pytest.approx(config.optim.min_learning_rate)
    assert "val_loss" in last
    assert "slower than planned" in capsys.readouterr().out
    assert json.loads((result.run_dir / "summary.json").read_text())["finished"]


def test_a_signal_ends_a_late_run_for_good(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    calls = []

    def stopped(*_: object, pause, **options):
        calls.append(options)
        pause(3)
        return in_time.TrainResult(Path("nowhere"), False, 15, {})

    monkeypatch.setattr(in_time, "train", stopped)
    result = train_in_time(config, planned=0.0, limit=1.0, display=ConsoleDisplay())
    assert (result.signal, len(calls)) == (15, 1)


@pytest.mark.parametrize(
    ("share", "elapsed", "late"),
    [(0.5, 50, False), (0.5, 64, False), (0.5, 66, True), (0.0, 14, False), (1.0, 116, True)],
)
def test_late_is_more_than_the_grace_after_the_plan(share: float, elapsed: float, late: bool):
    assert is_behind(share, elapsed, planned=100) == late
