"""Runs a plan in forked processes that are killed, again and again, and holds the table against a whole sweep's.

    python sweep_kill_driver.py PLAN FOLDER SEED KILLS

One line of JSON on standard output says what was seen. Forking from one process that has imported torch, and started
none of its threads, makes a kill cost milliseconds instead of seconds.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

import groundup.cli.sweep
import groundup.display.console
import groundup.display.progress
import groundup.sweeps.cost
import groundup.sweeps.sweep
import groundup.sweeps.terminal
import groundup.train
from groundup.cli.main import main
from groundup.record.sinks import read_jsonl
from groundup.record.sweep import SweepDirectory

# What a sweep imports when it runs, imported once for all of them.
IMPORTED = (
    groundup.display.progress,
    groundup.cli.sweep,
    groundup.sweeps.cost,
    groundup.sweeps.sweep,
    groundup.sweeps.terminal,
    groundup.display.console,
    groundup.train,
)
CLOCKS = {"seconds", "attempts"}


def fork(plan: Path, directory: Path) -> int:
    """A process that runs the plan, or goes on with it, as the command line does."""
    if pid := os.fork():
        return pid
    log = os.open(directory.with_name("log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        main(["sweep", str(plan), "--directory", str(directory)])
        raise AssertionError("the command line always ends by SystemExit")
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:
        traceback.print_exc()
        os._exit(99)


def finish(plan: Path, directory: Path) -> None:
    """Run to the end."""
    _, status = os.waitpid(fork(plan, directory), 0)
    assert os.waitstatus_to_exitcode(status) == 0, directory.with_name("log").read_text()


def table(directory: Path) -> list[dict[str, Any]]:
    """All results but the clock; each trial has one, and each of its steps is recorded once."""
    results = SweepDirectory(directory).results()
    assert len(list(read_jsonl(directory / "results.jsonl"))) == len(results), "a trial has ended twice"
    for name in results:
        steps = [line["step"] for line in read_jsonl(directory / name / "metrics.jsonl")]
        assert steps == sorted(set(steps)), f"{name} has a step twice"
    found = [{k: v for k, v in result.__dict__.items() if k not in CLOCKS} for result in results.values()]
    return sorted(found, key=lambda result: result["trial"])


def wait_for_a_trial(child: int, directory: Path) -> None:
    """Until a trial has begun, or the child has ended."""
    while not any(directory.glob("*/config.toml")):
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.01)


def kill_at_times(plan: Path, directory: Path, whole: list, random_: random.Random, kills: int) -> dict[str, int]:
    """Sweep after sweep, each killed until it comes to its end; every second kill after a trial has begun.

    A delay alone would leave it to the machine's load whether any trial is ever hit.
    """
    seen = {"kills": 0, "sweeps": 0, "cells_begun": 0}
    while seen["kills"] < kills:
        child = fork(plan, directory)
        if seen["kills"] % 2:
            wait_for_a_trial(child, directory)
        time.sleep(random_.uniform(0.2, 1.8))
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == -signal.SIGKILL:
            seen["kills"] += 1
            seen["cells_begun"] += len(list(directory.glob("*/config.toml")))
        else:
            assert code == 0, directory.with_name("log").read_text()
            assert table(directory) == whole
            shutil.rmtree(directory)
            seen["sweeps"] += 1
    finish(plan, directory)
    assert table(directory) == whole
    seen["sweeps"] += 1
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    plan_path, folder, seed, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    finish(plan_path, folder / "whole")
    print(json.dumps(kill_at_times(plan_path, folder / "sweep", table(folder / "whole"), random.Random(seed), count)))
