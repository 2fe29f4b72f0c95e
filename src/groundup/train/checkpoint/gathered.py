"""Checkpoints of a run on several ranks: gathered into the files that one process would write, or shard by shard."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from groundup.optim.dtensor import is_sharded, whole
from groundup.train.checkpoint.folder import FILES, CheckpointContent, hashes, replacing, write_state
from groundup.train.checkpoint.shards import MODEL_SHARDS, OPTIMIZER_SHARDS, write_index, write_shards
from groundup.train.checkpoint.writer import CheckpointWriter
from groundup.train.ranks.collective import Ranks


class RankedCheckpoints:
    """What :class:`CheckpointWriter` is to one process, for one of several; all ranks must call :meth:`save`.

    Gathered checkpoints are put together by all ranks, tensor by tensor, and written by the first one, in the
    background if that is wanted: the thread sends nothing. Sharded ones are written before :meth:`save` returns, since
    the ranks have to wait for each other.

    Args:
        writer: of the first rank; None on the others.
        sharded: every rank writes its own part.
    """

    def __init__(self, writer: CheckpointWriter | None, ranks: Ranks, *, sharded: bool):
        self._writer, self._ranks, self._sharded = writer, ranks, sharded

    def save(self, step: int, content: CheckpointContent, *, wait: bool = False) -> None:
        """As :meth:`CheckpointWriter.save`."""
        if self._sharded:
            self._save_shards(step, content)
            return
        copied = any(map(is_sharded, content.model.values()))
        content = gathered(content, keep=self._writer is not None)
        if self._writer is not None:
            self._writer.save(step, content, wait=wait, copied=copied)

    def settle(self, step: int, state: dict[str, Any], *, best: bool) -> None:
        """As :meth:`CheckpointWriter.settle`."""
        if self._writer is not None:
            self._writer.settle(step, state, best=best)

    def take_notes(self) -> list[str]:
        """As :meth:`CheckpointWriter.take_notes`."""
        return self._writer.take_notes() if self._writer is not None else []

    def _save_shards(self, step: int, content: CheckpointContent) -> None:
        with ExitStack() as stack:
            temporary = None
            with self._ranks.error_barrier():
                if self._writer is not None:
                    self._writer.wait()  # for what is settled in the background
                    stack.enter_context(self._writer.publishing(step))
                    temporary = stack.enter_context(replacing(self._writer.run.step_folder(step)))
            folder = Path(self._ranks.broadcast(str(temporary)))
            for name, tensors in ((MODEL_SHARDS, content.model), (OPTIMIZER_SHARDS, content.optimizer)):
                write_shards(folder / name, tensors)
            files = {
                name: sha256
                for share in self._ranks.all_gather(hashes(folder, self._ranks.rank, self._ranks.size))
                for name, sha256 in share.items()
            }
            with self._ranks.error_barrier():  # after which it is there for all
                if temporary is not None:
                    for name in (MODEL_SHARDS, OPTIMIZER_SHARDS):
                        write_index(temporary / name)
                    write_state(temporary, content.state | {FILES: files})
                    stack.close()

    def check(self) -> None:
        """As :meth:`CheckpointWriter.check`."""
        if self._writer is not None:
            self._writer.check()

    def wait(self) -> None:
        """As :meth:`CheckpointWriter.wait`."""
        if self._writer is not None:
            self._writer.wait()

    def close(self) -> None:
        """As :meth:`CheckpointWriter.close`."""
        if self._writer is not None:
            self._writer.close()


def gathered(content: CheckpointContent, *, keep: bool) -> CheckpointContent:
    """The content with every spread tensor whole, in memory of the CPU; all ranks must call it.

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
