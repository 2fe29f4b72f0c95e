"""Executors run the attempts that a sweep submits; the sweep decides which, and in which order."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, Protocol

from groundup.errors import ConfigError
from groundup.sweeps.attempt import Job, Outcome, attempt
from groundup.sweeps.plan import Plan

_MOST_THREADS = 1024
Kind = Literal["inline", "pool", "ray"]


class Executor(Protocol):
    """Runs attempts, one or several at once. Every submitted job has one outcome, "lost" if its process or machine is
    gone.
    """

    @property
    def slots(self) -> int:
        """How many jobs run at once; more may be submitted, and wait."""

    @property
    def memory_shares(self) -> int | None:
        """How many trials share the memory of a device of this machine; None if they run elsewhere."""

    def submit(self, job: Job) -> None:
        """Accept a job."""

    def next(self) -> Outcome | None:
        """The outcome of a finished job, after waiting for at most about a second; None if there is none yet."""

    def close(self) -> None:
        """End all processes it has started."""


class InlineExecutor:
    """One attempt after the other, in this process."""

    slots = 1
    memory_shares: int | None = 1

    def __init__(self) -> None:
        self._jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def next(self) -> Outcome | None:
        return attempt(self._jobs.pop(0)) if self._jobs else None

    def close(self) -> None: ...


def choose_executor(
    plan: Plan,
    directory: Path,
    *,
    kind: Kind | None = None,
    workers: int | None = None,
    threads: int | None = None,
    gpus: float | None = None,
    address: str | None = None,
) -> Executor:
    """The executor for the options of ``groundup sweep``.

    Args:
        directory: of the sweep; a pool keeps the logs of its workers there.
        kind: by default ray with an address, a pool with several workers or a budget in minutes, otherwise inline.

    Raises:
        ConfigError: options that contradict each other or are out of range.
    """
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value}; expected at least 1")
    if gpus is not None and not 0 <= gpus < math.inf:
        raise ConfigError(f"--gpus {gpus:g}; expected 0 or more")
    if address is not None and kind not in (None, "ray"):
        raise ConfigError(f"--address {address} is of a Ray cluster, and --executor {kind} runs here; leave one out")
    if kind == "ray" or address is not None:
        from groundup.sweeps.executors.ray import RayExecutor

        return RayExecutor(address, workers=workers or 2, threads=threads or 1, gpus=gpus)
    if threads is not None and threads > _MOST_THREADS:
        raise ConfigError(f"--threads {threads}; expected 1 to {_MOST_THREADS:,}")
    if gpus is not None:
        raise ConfigError(f"--gpus {gpus:g} is for --executor ray; a pool assigns the GPUs of this machine")
    if kind is None and plan.budget is not None and plan.budget.fixed == "minutes":
        kind = "pool"  # a process for each trial: a warm process would have more time to train
    from groundup.sweeps.executors.pool import Pool, visible_gpus

    gpus_here = visible_gpus() if kind != "inline" else []
    workers = workers or max(1, len(gpus_here))
    if kind == "pool" or (kind is None and workers > 1):
        return Pool(workers, directory / ".workers", threads=threads, gpus=gpus_here)
    if workers > 1:
        raise ConfigError(f"--executor inline runs one trial at a time, not {workers}; use --executor pool")
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return InlineExecutor()
