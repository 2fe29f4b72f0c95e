"""Writing a run's checkpoints, beside the training or in line with it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from groundup.errors import CheckpointError
from groundup.train.checkpoint import CheckpointContent, write_folder
from groundup.train.run_directory import RunDirectory
from groundup.train.snapshot import Snapshot, SnapshotBuffers

_NICENESS = 19


class CheckpointWriter:
    """Writes checkpoints one after the other; none is in flight twice.

    Each is written in the order that makes a kill at any instant harmless: the record on the disk, the complete
    folder, ``best`` if it is, ``latest``, and only then old checkpoints are deleted. The files are the same bit for
    bit whether they are written in the background or not.

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
        self._error: BaseException | None = None

    def save(
        self, step: int, content: CheckpointContent, *, best: bool = False, wait: bool = False, copied: bool = False
    ) -> None:
        """Write a checkpoint, after the one before it is done.

        Args:
            best: it becomes the run's best.
            wait: return when it is on the disk; saves the copy.
            copied: the tensors are copies already, which nobody else will change.

        Raises:
            CheckpointError: this one, or the one before, cannot be written. Earlier ones are untouched.
            TrainingError: the run directory is gone.
        """
        self.wait()
        if wait or not self.background:
            self._write(step, content, best)
            return
        snapshot = Snapshot(content, None) if copied else self._buffers.take(content)
        thread = threading.Thread(target=self._write_beside, args=(step, snapshot, best), name="checkpoint")
        self._idle.clear()
        try:
            thread.start()
        except BaseException:  # nobody else would end the wait
            self._idle.set()
            raise

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight."""
        return self._idle.is_set()

    def check(self) -> None:
        """Raise what the thread met, if it met anything; never waits."""
        if self._error is not None:
            self.wait()

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

    def _write_beside(self, step: int, snapshot: Snapshot, best: bool) -> None:
        try:
            _give_way()
            self._write(step, snapshot.content(), best)
        except BaseException as error:  # the thread has nobody to tell; the loop raises it
            self._error = error
        finally:
            self._idle.set()

    def _write(self, step: int, content: CheckpointContent, best: bool) -> None:
        with self.publishing(step, best=best):
            write_folder(self.run.step_folder(step), content)

    @contextmanager
    def publishing(self, step: int, *, best: bool) -> Iterator[None]:
        """Around the writing of a step's folder, all that has to come before and after it.

        Raises:
            CheckpointError, TrainingError: as :meth:`save` does.
        """
        self.run.check_present()
        try:
            self.sync_record()
            yield
            if best:  # before latest: a run resumed from this step must find it named
                self.run.point("best", step)
            self.run.point("latest", step)
            self.run.prune(self.keep)
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
