"""Several trials at once on this machine, in long-lived worker processes."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import groundup
from groundup.errors import ConfigError
from groundup.sweeps.attempt import Job, Outcome
from groundup.system.threads import available_cores

_SECONDS_TO_WAIT = 1.0
_SECONDS_TO_LEAVE = 10.0


class Pool:
    """Worker processes that take one job at a time. A worker that dies is replaced, and its job's outcome is "lost".

    Args:
        workers: number of processes.
        log_dir: folder for their output, one file for each.
        threads: CPU threads of each; by default the workers share the cores evenly.
        gpus: GPUs as CUDA_VISIBLE_DEVICES names them, assigned in turn; empty leaves the environment unchanged.
    """

    def __init__(self, workers: int, log_dir: Path, *, threads: int | None = None, gpus: Sequence[str] = ()):
        if workers < 1:
            raise ConfigError(f"workers = {workers}; expected at least 1")
        self.slots = workers
        self.memory_shares: int | None = -(-workers // len(gpus)) if gpus else workers
        self._waiting: deque[Job] = deque()
        self._outcomes: deque[Outcome] = deque()
        self._selector = selectors.DefaultSelector()
        threads = threads or max(1, available_cores() // workers)
        log_dir.mkdir(parents=True, exist_ok=True)
        self._workers = [
            _Worker(log_dir / f"worker-{i}.log", _environment(threads, gpus[i % len(gpus)] if gpus else None))
            for i in range(workers)
        ]

    def submit(self, job: Job) -> None:
        self._waiting.append(job)
        self._deal()

    def next(self) -> Outcome | None:
        self._deal()
        if not self._outcomes:
            for key, _ in self._selector.select(_SECONDS_TO_WAIT):
                self._hear(key.data)
            self._deal()
        return self._outcomes.popleft() if self._outcomes else None

    def close(self) -> None:
        for worker in self._workers:
            worker.leave()
        self._selector.close()

    def _deal(self) -> None:
        """Give waiting jobs to idle workers, and start workers that are not running."""
        for worker in self._workers:
            while self._waiting and worker.job is None:
                if not worker.alive:  # includes a worker that died while idle
                    self._forget(worker)
                    worker.start()
                    self._selector.register(worker.answers, selectors.EVENT_READ, worker)
                job = self._waiting.popleft()
                # With a time limit, a warm process would have more time to train.
                if (job.config.train.max_minutes or job.config.train.minutes) and worker.has_worked:
                    self._forget(worker)
                    worker.start()
                    self._selector.register(worker.answers, selectors.EVENT_READ, worker)
                if not worker.give(job):
                    self._bury(worker, job)

    def _hear(self, worker: _Worker) -> None:
        answer = worker.answer()
        job, worker.job = worker.job, None
        if answer is not None:
            self._outcomes.append(Outcome.from_json(json.loads(answer)))
        else:
            self._bury(worker, job)

    def _bury(self, worker: _Worker, job: Job | None) -> None:
        self._forget(worker)
        worker.end()
        if job is not None:
            self._outcomes.append(Outcome(trial=job.trial, ending="lost", message=worker.obituary))

    def _forget(self, worker: _Worker) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(worker.answers)


class _Worker:
    """One process, its pipes, and its current job."""

    def __init__(self, log: Path, environment: Mapping[str, str]):
        self.job: Job | None = None
        self.has_worked = False
        self._log, self._environment = log, environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def answers(self) -> int:
        """File descriptor of the pipe of its outcomes."""
        if self._process is None or self._process.stdout is None or self._process.stdout.closed:
            return -1
        return self._process.stdout.fileno()

    @property
    def obituary(self) -> str:
        code = self._process.returncode if self._process else None
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return f"its process ended by {how}; see {self._log} (signal 9 usually means out of memory)"

    def start(self) -> None:
        self.end()
        self.has_worked = False
        with self._log.open("ab") as log:
            # In a new session, so that Ctrl-C in a terminal reaches the sweep only.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "groundup.sweeps.executors.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(self._environment),
                start_new_session=True,
            )

    def give(self, job: Job) -> bool:
        """Send a job; returns False if the process has ended."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job.to_json()).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return False
        self.job, self.has_worked = job, True
        return True

    def answer(self) -> bytes | None:
        """Read an outcome; None if the process has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return line if line.endswith(b"\n") else None

    def leave(self) -> None:
        """End the process by closing its input, and kill it if it does not react."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_SECONDS_TO_LEAVE)
        self.end()

    def end(self) -> None:
        """Kill the process and close its pipes."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def visible_gpus() -> list[str]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    if not torch.cuda.is_available():
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",") if chosen else [str(i) for i in range(torch.cuda.device_count())]


def _environment(threads: int, gpu: str | None) -> dict[str, str]:
    environment = dict(os.environ)
    environment |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    # The worker must import this groundup, even from a plain source tree.
    paths = [str(Path(groundup.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return environment
