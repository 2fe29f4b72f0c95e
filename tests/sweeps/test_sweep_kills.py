"""kill -9 at any moment of a sweep: the same command ends with the same table, and no trial has run twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundup.record.sinks import read_jsonl
from groundup.record.sweep import SweepDirectory

DRIVER = Path(__file__).with_name("sweep_kill_driver.py")
PLANS: dict[str, dict[str, Any]] = {
    "grid": {"axes": {"max_learning_rate": [3e-3, 1e-2, 1e30]}, "seeds": 2},
    "halving": {
        "axes": {"max_learning_rate": [1e-3, 3e-3, 1e-2, 2e-2]},
        "stop": {"rule": "halving", "at": [0.3, 0.7]},
    },
}


def drive(plan: Path, folder: Path, seed: int, kills: int) -> dict[str, int]:
    command = [sys.executable, str(DRIVER), str(plan), str(folder), str(seed), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    seen: dict[str, int] = json.loads(done.stdout)
    return seen


@pytest.mark.parametrize("kind", PLANS)
def test_killed_at_a_few_moments(write_plan: Callable[..., Path], tmp_path: Path, kind: str):
    seen = drive(write_plan(**PLANS[kind]), tmp_path, seed=1, kills=6)
    assert seen["kills"] == 6
    assert seen["cells_begun"] > 0


@pytest.mark.long
@pytest.mark.parametrize("kind", PLANS)
def test_killed_at_many_moments(write_plan: Callable[..., Path], tmp_path: Path, kind: str):
    seen = drive(write_plan(**PLANS[kind]), tmp_path, seed=2, kills=80)
    assert seen["kills"] == 80
    assert seen["cells_begun"] > 20  # how many sweeps end between the kills depends on the machine


@pytest.mark.long
def test_a_pool_killed_from_above_leaves_no_worker_that_goes_on(write_plan: Callable[..., Path], tmp_path: Path):
    tables = PLANS["grid"] | {"options": {"max_iters": 200, "checkpoint_interval": 25, "eval_interval": 100}}
    plan, directory, random_ = write_plan(**tables), tmp_path / "sweep", random.Random(3)
    command = [sys.executable, "-m", "groundup", "sweep", str(plan), "--directory"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    for _ in range(4):
        sweep = subprocess.Popen(
            [*command, str(directory), "--workers", "2", "--threads", "1"], stdout=subprocess.DEVNULL
        )
        time.sleep(random_.uniform(4.0, 8.0))
        sweep.send_signal(signal.SIGKILL)
        sweep.wait()
    subprocess.run([*command, str(directory), "--workers", "2", "--threads", "1"], check=True, capture_output=True)
    found, whole = (
        {name: (r.status, r.steps, r.val_loss, r.train_loss) for name, r in SweepDirectory(place).results().items()}
        for place in (directory, tmp_path / "whole")
    )
    assert found == whole
    assert len(list(read_jsonl(directory / "results.jsonl"))) == len(found)
