"""Trains a recipe in forked processes that are killed, again and again, and holds the outcome against a whole run.

    python kill_driver.py times RECIPE SEED KILLS       kill -9 from outside, at random moments
    python kill_driver.py operations RECIPE SEED KILLS  kill -9 before a random file operation; 0 takes every one
    python kill_driver.py evaluations RECIPE SEED 0     kill -9 before every batch of every evaluation
    python kill_driver.py extension RECIPE SEED KILLS   as operations, after a finished run of half of the steps

One line of JSON on standard output says what was seen. Forking from one process that has imported torch, and started
none of its threads, makes a kill cost milliseconds instead of seconds.
"""

import dataclasses
import functools
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from groundup.cli.main import main
from groundup.config import load_recipe, override, save_toml
from groundup.train import logging
from groundup.train.checkpoint.folder import read_state
from records import record

OPERATIONS = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir")


def fork(recipe: Path, run: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """A process that trains, or goes on with, the run, as the command line does."""
    if pid := os.fork():
        return pid
    log = os.open(run.with_name("log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    resume = ["--resume"] if (run / "config.toml").exists() else []
    prepare()
    try:
        main(["train", str(recipe), *resume])
        raise AssertionError("the command line always ends by SystemExit")
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:
        traceback.print_exc()
        os._exit(99)


def finish(recipe: Path, run: Path) -> None:
    """Train to the end."""
    _, status = os.waitpid(fork(recipe, run), 0)
    assert os.waitstatus_to_exitcode(status) == 0, run.with_name("log").read_text()


def named(run: Path) -> int:
    """The step of ``latest``, -1 without one; whatever a pointer names is there and complete."""
    for pointer in ("best", "latest"):
        path = run / "checkpoints" / pointer
        if path.exists():
            folder = path.parent / path.read_text().strip()
            step = read_state(folder)["step"]
            assert folder.name == f"step-{step}"
            assert load_file(folder / "model.safetensors")
            assert load_file(folder / "optimizer.safetensors")
    path = run / "checkpoints" / "latest"
    return int(path.read_text().strip().removeprefix("step-")) if path.exists() else -1


def kill_before_operation(number: int) -> Callable[[], None]:
    """What makes a process kill itself before its number-th operation on a file."""

    def prepare() -> None:
        left = [number]

        def counted(operation: Callable) -> Callable:
            def counting(*args, **options):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return operation(*args, **options)

            return counting

        for name in OPERATIONS:
            setattr(os, name, counted(getattr(os, name)))

    return prepare


def kill_before_batch(number: int) -> Callable[[], None]:
    """What makes a process kill itself before the number-th batch that it evaluates."""

    def prepare() -> None:
        left = [number]
        whole = logging.evaluate_unless

        def counted(stop: Callable[[], bool], *arguments):
            def stops() -> bool:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return stop()

            return whole(stops, *arguments)

        logging.evaluate_unless = counted

    return prepare


def wait_for(pattern: str, child: int, run: Path) -> None:
    """Until there is such a file among the checkpoints, or the child has ended."""
    while not any((run / "checkpoints").glob(pattern)):
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return


def kill_at_times(recipe: Path, run: Path, whole: list, random_: random.Random, kills: int) -> dict[str, int]:
    """Run after run, each killed until it comes to its end."""
    seen = {"kills": 0, "while_writing": 0, "with_a_checkpoint": 0, "runs": 0}
    latest = -1
    while seen["kills"] < kills:
        child = fork(recipe, run)
        # A delay alone would leave it to the machine's speed whether a write, or a run with a checkpoint, is ever hit.
        if seen["kills"] % 5 == 4:
            wait_for(".step-*.tmp", child, run)
        elif seen["kills"] % 5 == 2:
            wait_for("latest", child, run)
        else:
            time.sleep(random_.uniform(0.0, 1.5))
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == -signal.SIGKILL:
            before, latest = latest, named(run)
            assert latest >= before, f"latest went back from step {before} to {latest}"
            seen["kills"] += 1
            seen["while_writing"] += any((run / "checkpoints").glob(".step-*.tmp"))
            seen["with_a_checkpoint"] += latest >= 0
        else:
            assert code == 0, run.with_name("log").read_text()
            assert record(run) == whole
            shutil.rmtree(run)
            seen["runs"] += 1
            latest = -1
    finish(recipe, run)
    assert record(run) == whole
    seen["runs"] += 1
    return seen


def kill_at_operations(
    recipe: Path,
    run: Path,
    whole: list,
    random_: random.Random,
    kills: int,
    prepare: Callable[[int], Callable[[], None]] = kill_before_operation,
    begun: Path | None = None,
) -> dict[str, int | list[int]]:
    """Runs that are killed once each, and resumed; each begins as a copy of another run, if one is given."""
    seen = {"kills": 0, "while_writing": 0, "with_a_checkpoint": 0, "runs": 0, "operations": 0, "latest": []}

    def kill(number: int) -> bool:
        shutil.rmtree(run, ignore_errors=True)
        if begun is not None:
            shutil.copytree(begun, run)
        code = os.waitstatus_to_exitcode(os.waitpid(fork(recipe, run, prepare(number)), 0)[1])
        if code == 0:
            return False
        assert code == -signal.SIGKILL, run.with_name("log").read_text()
        latest = named(run)
        seen["kills"] += 1
        seen["while_writing"] += any((run / "checkpoints").glob(".step-*.tmp"))
        seen["with_a_checkpoint"] += latest >= 0
        seen["latest"].append(latest)
        finish(recipe, run)
        assert record(run) == whole, f"killed before operation {number}"
        assert list(run.rglob(".*.tmp")) == []
        seen["runs"] += 1
        return True

    if kills:
        for _ in range(kills):
            kill(random_.randint(1, 60))
    else:
        while kill(seen["operations"] + 1):
            seen["operations"] += 1
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    how, path, seed, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    config = load_recipe(str(path))
    whole_recipe = path.with_name("whole.toml")
    save_toml(override(config, {"name": "whole"}), whole_recipe)
    whole_run = dataclasses.replace(config, name="whole").run_dir
    finish(whole_recipe, whole_run)
    begun = path.with_name("begun")
    if how == "extension":
        half = override(config, {"train.max_iters": config.train.max_iters // 2, "optim.stage_from": 0})
        save_toml(half, path.with_name("half.toml"))
        finish(path.with_name("half.toml"), config.run_dir)
        config.run_dir.rename(begun)
    ways = {
        "times": kill_at_times,
        "operations": kill_at_operations,
        "extension": functools.partial(kill_at_operations, begun=begun),
        "evaluations": functools.partial(kill_at_operations, prepare=kill_before_batch),
    }
    print(json.dumps(ways[how](path, config.run_dir, record(whole_run), random.Random(seed), kills)))
