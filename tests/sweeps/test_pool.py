"""The local pool: the same table as in one process, and a worker that is killed costs nothing but its time."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.errors import ConfigError
from groundup.record.sinks import read_jsonl
from groundup.sweeps.executors.executor import InlineExecutor
from groundup.sweeps.executors.pool import Pool
from groundup.sweeps.plan import Plan
from groundup.sweeps.sweep import Watch, run_sweep
from sweep_tables import table

MakePlan = Callable[..., Plan]


def holder(run: Path) -> int | None:
    """The process that trains a run, once it has a checkpoint to go on from."""
    try:
        return int((run / ".lock").read_text()) if (run / "checkpoints" / "latest").exists() else None
    except (OSError, ValueError):
        return None


def kill_once(run: Path) -> threading.Thread:
    """kill -9 the process that trains a run, as soon as it has a checkpoint."""

    def wait_and_kill() -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            if pid := holder(run):
                os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.002)

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


def test_two_workers_one_of_which_is_killed(make_plan: MakePlan, tmp_path: Path):
    plan = make_plan(
        axes={"max_learning_rate": [3e-3, 1e-2, 1e30]}, seeds=2,
        options={"max_iters": 90, "checkpoint_interval": 15, "eval_interval": 45},
    )  # fmt: skip
    whole = run_sweep(plan, InlineExecutor(), directory=tmp_path / "inline")
    victim = tmp_path / "pool" / plan.trials()[1].name
    killer = kill_once(victim)
    notes: list[str] = []
    watch = Watch()
    watch.note = notes.append
    result = run_sweep(
        plan, Pool(2, tmp_path / "pool" / ".workers", threads=1), directory=tmp_path / "pool", watch=watch
    )
    killer.join()
    assert table(result) == table(whole)
    assert result.results[victim.name].attempts == 2
    assert [note for note in notes if victim.name in note and "ended by signal 9" in note]
    assert len((tmp_path / "pool" / "results.jsonl").read_text().splitlines()) == 6
    for name in result.results:
        steps = [line["step"] for line in read_jsonl(tmp_path / "pool" / name / "metrics.jsonl")]
        assert sorted(set(steps)) == steps


def test_a_worker_that_always_dies_is_given_up(make_plan: MakePlan, tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif 'worker' in ' '.join(sys.orig_argv): os._exit(3)\n")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(tmp_path), before]))
    try:
        pool = Pool(1, tmp_path / "log", threads=1)
        result = run_sweep(make_plan(), pool, directory=tmp_path / "sweep", retries=1)
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.__setitem__("PYTHONPATH", before)
    (crashed,) = result.results.values()
    assert (crashed.status, crashed.attempts) == ("crashed", 2)
    assert "exit code 3" in crashed.message


def test_workers_leave_when_the_sweep_is_killed(tmp_path: Path):
    script = (
        "import sys, time; from pathlib import Path; from groundup.sweeps.executors.pool import Pool\n"
        "pool = Pool(1, Path(sys.argv[1])); pool._workers[0].start()\n"
        "print(pool._workers[0]._process.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    end = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and "zombie" not in Path(f"/proc/{worker}/status").read_text():
        assert time.monotonic() < end, "the worker has stayed"
        time.sleep(0.05)


def test_cells_by_the_clock_have_a_process_each(make_plan: MakePlan, tmp_path: Path):
    plan = make_plan(budget={"fixed": "minutes", "amount": 0.004}, seeds=3, options={"max_iters": 100_000})
    result = run_sweep(plan, Pool(1, tmp_path / "workers"), directory=tmp_path / "sweep")
    assert [found.status for found in result.results.values()] == ["finished"] * 3
    holders = {int((tmp_path / "sweep" / name / ".lock").read_text()) for name in result.results}
    assert len(holders) == 3


def test_cores_and_gpus_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("groundup.sweeps.executors.pool.available_cores", lambda: 7)
    pool = Pool(3, tmp_path, gpus=["0", "1"])
    environments = [worker._environment for worker in pool._workers]
    assert [e["OMP_NUM_THREADS"] for e in environments] == ["2", "2", "2"]
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments] == ["0", "1", "0"]
    assert pool.memory_shares == 2
    pool.close()
    with pytest.raises(ConfigError, match="workers = 0"):
        Pool(0, tmp_path)
