"""Writing a run's checkpoints, beside the training or in line with it."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from groundup.errors import CheckpointError
from groundup.record.run import RunDirectory
from groundup.train.checkpoint.folder import CheckpointContent, read_state, write_folder, write_state
from groundup.train.checkpoint.snapshot import Snapshot, SnapshotBuffers

_NICENESS = 19


class CheckpointWriter:
    """Writes checkpoints one after the other; none is in flight twice.

    Each is written in the order that makes a kill at any instant harmless: the record on the disk, the complete
    folder, ``latest``, and only then old checkpoints are deleted. The evaluation of its step may come later: then
    :meth:`settle` completes the state and names the best. The files are the same bit for bit whether they are written
    in the background or not.

    Args:
        keep: newest checkpoints kept, beside those that ``latest`` and ``best`` name; 0 keeps all.
        background: :meth:`save` copies the tensors and returns; a thread writes them.
        sync_record: puts the lines of the steps so far on the disk, so that no checkpoint is there without them.
    """

    def __init__(self, run: RunDirectory, *, keep: int, background: bool, sync_record: Callable[[], None]):
        self.run, self.keep, self.background, self.sync_record = run, keep, background, sync_record
        self._buffers = SnapshotBuffers()
        self._idle = threading.Event()
        self._idle.set()
        self._tasks: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._notes: list[str] = []
        self._stuck: set[Path] = set()

    def save(self, step: int, content: CheckpointContent, *, wait: bool = False, copied: bool = False) -> None:
        """Write a checkpoint, after the one before it is done.

        Args:
            wait: return when it is on the disk; saves the copy.
            copied: the tensors are copies already, which nobody else will change.

        Raises:
            CheckpointError: this one, or the one before, cannot be written. Earlier ones are untouched.
            TrainingError: the run directory is gone.
        """
        self.wait()
        if wait or not self.background:
            self._write(step, content)
            return
        snapshot = Snapshot(content, None) if copied else self._buffers.take(content)
        self._do_beside(lambda: self._write(step, snapshot.content()))

    def settle(self, step: int, state: dict[str, Any], *, best: bool) -> None:
        """Put what came after :meth:`save` into the state of a step's checkpoint, and name it the best if it is.

        Args:
            state: entries of ``state.json`` to replace.

        Raises:
            CheckpointError, TrainingError: as :meth:`save` does.
        """
        self.check()
        if self.background:
            self._do_beside(lambda: self._settle(step, state, best))
        else:
            self._settle(step, state, best)

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight."""
        return self._idle.is_set()

    def check(self) -> None:
        """Raise what the thread met, if it met anything; never waits."""
        if self._error is not None:
            self.wait()

    def take_notes(self) -> list[str]:
        """What a person should know since the last call, such as a checkpoint that cannot be deleted."""
        notes, self._notes = self._notes, []
        return notes

    def wait(self) -> None:
        """Return when nothing is in flight.

        Raises:
            CheckpointError, TrainingError: as :meth:`save` does, for the checkpoint that was in flight.
        """
        self.close()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Let the checkpoint in flight come to its end, whichever it is."""
        # Not Thread.join: interrupted by Ctrl-C, it takes the thread for finished (Python 3.11).
        self._idle.wait()

    def _do_beside(self, task: Callable[[], None]) -> None:
        with self._lock:
            self._tasks.append(task)
            if not self._idle.is_set():  # the thread takes it next
                return
            self._idle.clear()
        try:
            threading.Thread(target=self._work, name="checkpoint").start()
        except BaseException:  # without a thread, nothing else would end the wait
            self._tasks.clear()
            self._idle.set()
            raise

    def _work(self) -> None:
        try:
            _give_way()
            while (task := self._next_task()) is not None:
                task()
        except BaseException as error:  # a thread cannot raise it to anyone; the loop does
            with self._lock:
                self._error = error
                self._tasks.clear()
                self._idle.set()

    def _next_task(self) -> Callable[[], None] | None:
        with self._lock:
            if self._tasks:
                return self._tasks.popleft()
            self._idle.set()
            return None

    def _write(self, step: int, content: CheckpointContent) -> None:
        with self.publishing(step):
            write_folder(self.run.step_folder(step), content)

    @contextmanager
    def publishing(self, step: int) -> Iterator[None]:
        """Around the writing of a step's folder, all that has to come before and after it.

        Raises:
            CheckpointError, TrainingError: as :meth:`save` does.
        """
        with self._errors_of(step):
            self.sync_record()
            yield
            self.run.point("latest", step)
            self._prune()

    def _settle(self, step: int, state: dict[str, Any], best: bool) -> None:
        with self._errors_of(step):
            self.sync_record()  # with the lines that the state no longer promises
            folder = self.run.step_folder(step)
            write_state(folder, read_state(folder) | state)
            if best:
                self.run.point("best", step)
            self._prune()

    def _prune(self) -> None:
        stuck = set(self.run.prune(self.keep))
        for path in sorted(stuck - self._stuck):
            self._notes.append(f"{path} cannot be deleted now; the next checkpoint tries again")
        self._stuck = stuck

    @contextmanager
    def _errors_of(self, step: int) -> Iterator[None]:
        self.run.check_present()
        try:
            yield
        except CheckpointError:
            self.run.check_present()
            raise
        except OSError as error:
            self.run.check_present()
            raise CheckpointError(
                f"cannot write the checkpoint of step {step} in {self.run.path}: {error.strerror or error}; earlier "
                f"checkpoints are untouched: free some space and resume"
            ) from None


def _give_way() -> None:
    # On Linux priority belongs to threads. At the lowest, this one takes what the matrix products leave over, which
    # all wait for the slowest of their threads.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
