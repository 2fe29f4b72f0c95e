"""One model on several ranks: a copy on each (DDP), or a shard of every weight on each (FSDP2).

Each rank computes the gradient of its part of the batch, and all ranks apply the mean. Weights keep their names; with
FSDP they are DTensors (:mod:`groundup.optim.dtensor`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from groundup.nn import TransformerLM
from groundup.train.ranks.collective import Ranks

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel


class Parallel:
    """One process with the whole model; base of DDP and FSDP.

    Attributes:
        is_alone: whether gradients need no synchronization.
        all_compute: whether every rank must take part in every forward pass.
    """

    name = "alone"
    is_alone = True
    all_compute = False

    def __init__(self, ranks: Ranks | None = None):
        self.ranks = ranks or Ranks()

    def built_on(self, device: str) -> str:
        """Return the device to build the whole model on."""
        return device

    def spread(self, model: TransformerLM, device: str) -> TransformerLM:
        """Move the model to the device and keep this rank's part of its weights. Build the optimizer afterwards."""
        return model

    def training_form(self, model: TransformerLM) -> nn.Module:
        """Return what training calls in place of the model, so that backward leaves mean gradients."""
        return model

    def gradient_sync(self, *, last: bool) -> AbstractContextManager[None]:
        """Wrap forward and backward of one micro-batch; the last one of a step completes the gradient."""
        return nullcontext()

    @contextmanager
    def reading(self, model: TransformerLM) -> Iterator[None]:
        """Wrap forward passes that no backward pass follows."""
        yield


class DDP(Parallel):
    """A copy of the model on each rank. Gradients are averaged during the backward pass."""

    name = "ddp"
    is_alone = False
    _wrapped: DistributedDataParallel

    def training_form(self, model: TransformerLM) -> nn.Module:
        from torch.nn.parallel import DistributedDataParallel

        device = next(model.parameters()).device
        # The buffers are tables that every rank computes for itself. (torch 2.13 has another name for that.)
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {buffers: False, "gradient_as_bucket_view": True}
        self._wrapped = DistributedDataParallel(
            model, device_ids=[device.index] if device.type == "cuda" else None, **options
        )
        return self._wrapped

    def gradient_sync(self, *, last: bool) -> AbstractContextManager[None]:
        # Only the sum over the micro-batches is sent.
        return nullcontext() if last else self._wrapped.no_sync()


class FSDP(Parallel):
    """A shard of weights, gradients and optimizer state on each rank (FSDP2; Zhao et al. 2023).

    A block's weights are gathered when it computes, and freed afterwards. Gradients are reduced after every
    micro-batch: whole gradients would take the memory that sharding saves.

    In bfloat16 each layer saves the whole cast copy of its weights for the backward pass, which
    ``train.activation_checkpointing`` avoids.
    """

    name = "fsdp"
    is_alone = False
    all_compute = True

    def built_on(self, device: str) -> str:
        return "cpu"  # from where the blocks are moved to the device one by one

    def spread(self, model: TransformerLM, device: str) -> TransformerLM:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(torch.device(device).type, (self.ranks.size,))
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        # Embedding, final norm and head are one unit, gathered from the beginning of forward to the end of backward.
        fully_shard(model, mesh=mesh)
        return model

    @contextmanager
    def reading(self, model: TransformerLM) -> Iterator[None]:
        root: FSDPModule = model  # type: ignore[assignment]  # fully_shard() has changed its class
        try:
            yield
        finally:
            # Only a backward pass reshards: without one, the weights would stay gathered, unknown to the optimizer.
            root.reshard()


def make_parallel(kind: str, ranks: Ranks) -> Parallel:
    """Return the parallelism of a config (train.parallel); one rank needs none."""
    if ranks.size == 1:
        return Parallel(ranks)
    return {"ddp": DDP, "fsdp": FSDP}[kind](ranks)
