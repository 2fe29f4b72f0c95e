"""Who runs attempts. The sweep decides what is run and in which order; an executor only runs it."""

from __future__ import annotations

from typing import Protocol

from groundup.sweeps.attempt import Job, Outcome, attempt


class Executor(Protocol):
    """Runs attempts, several at once or one after the other, and loses none: each job that is submitted has one
    outcome, "lost" if the process or machine that had it is gone.
    """

    @property
    def slots(self) -> int:
        """How many jobs it can run at once; more may be submitted, and wait."""

    @property
    def memory_shares(self) -> int | None:
        """Among how many cells the memory of a device of this machine is shared; None where they run elsewhere."""

    def submit(self, job: Job) -> None:
        """Take a job."""

    def next(self) -> Outcome | None:
        """The outcome of a job that has ended, after a wait of about a second at the most; None if none has yet."""

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
