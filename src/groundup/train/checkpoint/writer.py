"""Saving a run's checkpoints: when, by which ranks, in the background or in line."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from groundup.errors import CheckpointError
from groundup.optim.dtensor import is_sharded, whole
from groundup.record.run import RunDirectory
from groundup.train.checkpoint.folder import (
    FILES,
    CheckpointContent,
    hashes,
    parameters_by_name,
    read_state,
    replacing,
    write_folder,
    write_state,
    write_weights,
)
from groundup.train.checkpoint.shards import MODEL_SHARDS, OPTIMIZER_SHARDS, write_index, write_shards

if TYPE_CHECKING:
    from groundup.train.build import Trainer

_NICENESS = 19


class Checkpoints:
    """Checkpoints of a session: saves each step at most once. All ranks must call its methods.

    Gathered checkpoints are put together by all ranks, tensor by tensor, and written by the first one, in the
    background if asked for. Sharded ones are written before :meth:`save` returns, since the ranks wait for each other.

    Args:
        writer: of the first rank; None on the others.
        clock: seconds of the run so far.
        saved: the step whose checkpoint is on the disk already; None at the start of a run.

    Attributes:
        due_at: time by ``time.monotonic()`` from which on a checkpoint is due (train.checkpoint_minutes).
    """

    def __init__(
        self, trainer: Trainer, writer: CheckpointWriter | None, *, clock: Callable[[], float], saved: int | None
    ):
        self.writer = writer
        self._trainer, self._clock, self._saved = trainer, clock, saved
        self._seconds = 60 * trainer.config.train.checkpoint_minutes or math.inf
        self.due_at = time.monotonic() + self._seconds

    def save(self, *, wait: bool = False) -> None:
        """Save the latest step, unless it is saved.

        Args:
            wait: return when it is on the disk.
        """
        trainer, state = self._trainer, self._trainer.state
        if self._saved != state.step:
            state.wall_seconds = self._clock()
            content = CheckpointContent.of(trainer.model, trainer.optimizer, state.to_dict() | trainer.identity)
            if trainer.config.train.checkpoint_format == "sharded":
                self._save_shards(state.step, content)
            else:
                copied = any(map(is_sharded, content.model.values()))
                if copied:
                    content = gathered(content, keep=self.writer is not None)
                if self.writer is not None:
                    self.writer.save(state.step, content, wait=wait, copied=copied)
            self._saved = state.step
        self.due_at = time.monotonic() + self._seconds
        if wait and self.writer is not None:
            self.writer.wait()

    def settle(self, *, best: bool) -> None:
        """Complete the checkpoint of the latest step, if it is saved, with what its evaluation and sample found.

        With ``train.keep_best = "weights"`` the weights of a new best are saved.

        Args:
            best: its validation loss is the best so far.
        """
        state, keep = self._trainer.state, self._trainer.config.train.keep_best
        if best and keep == "weights":
            self._save_best()
        if self._saved == state.step and self.writer is not None:
            self.writer.settle(state.step, state.to_dict(), best=best and keep == "full")

    def _save_best(self) -> None:
        trainer, state = self._trainer, self._trainer.state
        content = CheckpointContent(parameters_by_name(trainer.model), {}, state.to_dict() | trainer.identity)
        copied = any(map(is_sharded, content.model.values()))
        if copied:
            content = gathered(content, keep=self.writer is not None)
        if self.writer is not None:
            self.writer.save(state.step, content, copied=copied, best=True)

    def close(self) -> None:
        """Wait for the checkpoint in flight."""
        if self.writer is not None:
            self.writer.close()

    def _save_shards(self, step: int, content: CheckpointContent) -> None:
        ranks = self._trainer.ranks
        with ExitStack() as stack:
            temporary = None
            with ranks.error_barrier():
                if self.writer is not None:
                    self.writer.wait()  # for what is settled in the background
                    stack.enter_context(self.writer.publishing(step))
                    temporary = stack.enter_context(replacing(self.writer.run.step_folder(step)))
            folder = Path(ranks.broadcast(str(temporary)))
            for name, tensors in ((MODEL_SHARDS, content.model), (OPTIMIZER_SHARDS, content.optimizer)):
                write_shards(folder / name, tensors)
            files = {
                name: sha256
                for share in ranks.all_gather(hashes(folder, ranks.rank, ranks.size))
                for name, sha256 in share.items()
            }
            with ranks.error_barrier():  # after which it is there for all
                if temporary is not None:
                    for name in (MODEL_SHARDS, OPTIMIZER_SHARDS):
                        write_index(temporary / name)
                    write_state(temporary, content.state | {FILES: files})
                    stack.close()


def gathered(content: CheckpointContent, *, keep: bool) -> CheckpointContent:
    """Return the content with every sharded tensor whole, in memory of the CPU; all ranks must call it.

    Args:
        keep: whether this rank wants it; otherwise the result is empty, and no more than one tensor is held at a time.
    """

    def gather(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for name, tensor in tensors.items():
            full = whole(tensor)
            if keep:
                found[name] = full.cpu() if full is not tensor else full
        return found

    return CheckpointContent(gather(content.model), gather(content.optimizer), content.state)


class CheckpointWriter:
    """Writer of checkpoint folders, one at a time.

    Each is written in an order that makes a kill at any instant harmless: the record on the disk, the complete folder,
    ``latest``, and only then old checkpoints are deleted. The evaluation of its step may come later: then
    :meth:`settle` completes the state and names the best. The files are the same bit for bit whether they are written
    in the background or not.

    Args:
        keep: newest checkpoints kept, beside those that ``latest`` and ``best`` name; 0 keeps all.
        also: a step whose checkpoint is kept, too; 0 for none.
        background: :meth:`save` copies the tensors and returns; a thread writes them.
        sync_record: writes the lines of the steps so far to the disk, so that no checkpoint exists without them.

    Attributes:
        has_news: whether the thread has met an error or has notes since the last look.
        seconds: what writing the latest checkpoint took; 0 before the first one.
    """

    def __init__(
        self, run: RunDirectory, *, keep: int, also: int = 0, background: bool, sync_record: Callable[[], None]
    ):
        self.run, self.keep, self.also = run, keep, also
        self.background, self.sync_record = background, sync_record
        self._buffers = SnapshotBuffers()
        self._idle = threading.Event()
        self._idle.set()
        self._tasks: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self.has_news = False
        self.seconds = 0.0
        self._notes: list[str] = []
        self._stuck: set[Path] = set()

    def save(
        self, step: int, content: CheckpointContent, *, wait: bool = False, copied: bool = False, best: bool = False
    ) -> None:
        """Write a checkpoint, after the one before it is done.

        Args:
            wait: return when it is on the disk; saves the copy.
            copied: the tensors are copies already, which will not change.
            best: write the weights only, as the best so far.

        Raises:
            CheckpointError: this one, or the one before, cannot be written. Earlier ones are untouched.
            TrainingError: the run directory is gone.
        """
        self.wait()
        write = self._write_best if best else self._write
        if wait or not self.background:
            write(step, content)
            return
        snapshot = Snapshot(content, None) if copied else self._buffers.take(content)
        self._do_beside(lambda: write(step, snapshot.content()))

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
        """Raise the error of the thread, if there is one; never waits."""
        if self._error is not None:
            self.wait()

    def take_notes(self) -> list[str]:
        """Return the notes for the user since the last call, such as a checkpoint that cannot be deleted."""
        self.has_news = self._error is not None
        notes, self._notes = self._notes, []
        return notes

    def wait(self) -> None:
        """Wait until nothing is in flight.

        Raises:
            CheckpointError, TrainingError: as :meth:`save` does, for the checkpoint that was in flight.
        """
        self.close()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait for the checkpoint in flight, and keep its error."""
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
                self._error, self.has_news = error, True
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

    def _write_best(self, step: int, content: CheckpointContent) -> None:
        with self._errors_of(step):
            self.sync_record()
            write_weights(self.run.best_folder(step), content)
            self.run.point("best", step, folder=self.run.best_folder(step))
            self._prune()

    @contextmanager
    def publishing(self, step: int) -> Iterator[None]:
        """Wrap the writing of a step's folder with what comes before and after it.

        Raises:
            CheckpointError, TrainingError: as :meth:`save` does.
        """
        with self._errors_of(step):
            began = time.monotonic()
            self.sync_record()
            yield
            self.seconds = time.monotonic() - began
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
        stuck = set(self.run.prune(self.keep, self.also))
        for path in sorted(stuck - self._stuck):
            self._notes.append(f"{path} cannot be deleted now; the next checkpoint tries again")
            self.has_news = True
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


@dataclass(frozen=True)
class Snapshot:
    """Copy of a checkpoint's content that may still be on its way from the GPU."""

    _content: CheckpointContent
    _copied: torch.cuda.Event | None

    def content(self) -> CheckpointContent:
        """Return the content once it has arrived; waits without the GIL."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._content


class SnapshotBuffers:
    """Host memory for snapshots, reused by the next one.

    New memory costs a page fault for every 4 KiB, several times what the copy itself does. For tensors on a GPU the
    memory is pinned: the copies are queued behind the step that made the values and before the one that changes them,
    and the caller does not wait for them.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, content: CheckpointContent) -> Snapshot:
        """Copy all tensors. Overwrites the snapshot before, which must have been written."""
        copied = CheckpointContent(
            {name: self._copy(f"model {name}", tensor) for name, tensor in content.model.items()},
            {name: self._copy(f"optimizer {name}", tensor) for name, tensor in content.optimizer.items()},
            content.state,
        )
        event = None
        if any(tensor.is_cuda for tensor in (*content.model.values(), *content.optimizer.values())):
            event = torch.cuda.Event()
            event.record()
        return Snapshot(copied, event)

    @torch.no_grad()
    def _copy(self, key: str, tensor: Tensor) -> Tensor:
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)
            self._buffers[key] = buffer
        return buffer.copy_(tensor, non_blocking=tensor.is_cuda)


def _give_way() -> None:
    # On Linux priority belongs to threads. At the lowest, this one takes what the matmuls leave over, which all wait
    # for the slowest of their threads.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
