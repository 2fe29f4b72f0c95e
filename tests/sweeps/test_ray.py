"""A real Ray on this machine: the same table as in one process, also where a worker is killed on the way."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.errors import ConfigError
from groundup.record.sinks import read_jsonl
from groundup.sweeps.executors.executor import InlineExecutor
from groundup.sweeps.executors.ray import RayExecutor, _host_and_port
from groundup.sweeps.plan import Plan
from groundup.sweeps.sweep import Watch, run_sweep
from sweep_tables import table

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("default")  # Ray and what it brings warn of their own changes to come


def kill_worker_of(run: Path) -> threading.Thread:
    """kill -9 the process that trains a run, as soon as it has a checkpoint."""

    def wait_and_kill() -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end and not (run / "checkpoints" / "latest").exists():
            time.sleep(0.002)
        os.kill(int((run / ".lock").read_text()), signal.SIGKILL)

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


@pytest.mark.long
def test_two_workers_of_ray_one_of_which_is_killed(make_plan: Callable[..., Plan], tmp_path: Path):
    plan = make_plan(
        axes={"max_learning_rate": [3e-3, 1e-2, 1e30]}, seeds=2,
        options={"max_iters": 90, "checkpoint_interval": 15, "eval_interval": 45},
    )  # fmt: skip
    whole = run_sweep(plan, InlineExecutor(), directory=tmp_path / "inline")
    victim = tmp_path / "ray" / plan.trials()[1].name
    killer = kill_worker_of(victim)
    notes: list[str] = []
    watch = Watch()
    watch.note = notes.append
    result = run_sweep(plan, RayExecutor(workers=2), directory=tmp_path / "ray", watch=watch)
    killer.join()
    assert table(result) == table(whole)
    assert result.results[victim.name].attempts == 2
    assert [note for note in notes if victim.name in note and "trying again" in note]
    assert len((tmp_path / "ray" / "results.jsonl").read_text().splitlines()) == 6
    for name in result.results:
        steps = [line["step"] for line in read_jsonl(tmp_path / "ray" / name / "metrics.jsonl")]
        assert sorted(set(steps)) == steps


def test_a_cluster_that_is_not_there_is_said_within_seconds():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        began = time.monotonic()
        with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127\.0\.0\.1:"):
            RayExecutor(f"127.0.0.1:{taken.getsockname()[1]}")
        assert time.monotonic() - began < 30


@pytest.mark.long
def test_cells_that_no_machine_has_room_for_are_refused():
    with pytest.raises(ConfigError, match=r"a trial takes 1 CPUs and 3 GPUs of Ray, and no machine has that many"):
        RayExecutor(workers=1, gpus=3)


def test_addresses():
    assert _host_and_port("ray://head:10001") == ("head", 10001)
    assert _host_and_port("head") == ("head", 6379)
    with pytest.raises(ConfigError, match="expected auto, HOST:PORT"):
        _host_and_port("head:port")
