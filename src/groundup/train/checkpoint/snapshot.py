"""Copies of a checkpoint's tensors, so that training can go on while they are written."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from groundup.train.checkpoint.folder import CheckpointContent


@dataclass(frozen=True)
class Snapshot:
    """A copy that may still be on its way from the GPU."""

    _content: CheckpointContent
    _copied: torch.cuda.Event | None

    def content(self) -> CheckpointContent:
        """The copied content, once it has arrived; waits without holding up any other thread."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._content


class SnapshotBuffers:
    """Host memory for snapshots, kept from one to the next.

    New memory costs a page fault for every 4 KiB, several times what the copy itself does. For tensors on a GPU the
    memory is pinned: the copies are queued behind the step that made the values and before the one that changes them,
    and the caller does not wait for them.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, content: CheckpointContent) -> Snapshot:
        """Copy all tensors. The snapshot taken before is overwritten, so it must have been written by now."""
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
