"""One model on several ranks: a whole copy on each (DDP), or a share of every weight on each (FSDP2).

Either way each rank makes the gradient of its own part of the batch, and all move by the mean of these. The weights
keep their names and the optimizer does not know, but for FSDP's weights being DTensors (:mod:`groundup.optim.dtensor`).
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
    """One process has the model for itself; the others say what more there is to do.

    Attributes:
        all_compute: whether every rank must take part where the model computes anything.
    """

    name = "alone"
    all_compute = False

    def __init__(self, ranks: Ranks | None = None):
        self.ranks = ranks or Ranks()

    def built_on(self, device: str) -> str:
        """Where the model is to be built, whole."""
        return device

    def spread(self, model: TransformerLM, device: str) -> TransformerLM:
        """The same model on the device, with this rank's part of its weights; to be called before the optimizer is
        built."""
        return model

    def training_form(self, model: TransformerLM) -> nn.Module:
        """What is called in place of the model in training, so that backward leaves mean gradients."""
        return model

    def one_pass(self, *, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of one of a step's passes, the last of which completes the gradient."""
        return nullcontext()

    @contextmanager
    def reading(self, model: TransformerLM) -> Iterator[None]:
        """Around forward passes that no backward pass follows."""
        yield


class DDP(Parallel):
    """A whole copy of the model on each rank. Gradients are averaged while the backward pass still goes on."""

    name = "ddp"
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

    def one_pass(self, *, last: bool) -> AbstractContextManager[None]:
        # Only the sum of the passes is worth sending.
        return nullcontext() if last else self._wrapped.no_sync()


class FSDP(Parallel):
    """Each rank keeps its share of weights, gradients and optimizer state (FSDP2; Zhao et al. 2023).

    A block's weights are gathered when it computes, and dropped again. Every pass reduces its gradients: to keep them
    whole from one pass to the next would take the memory that is to be saved.

    In bfloat16 each layer keeps the cast copy of its weights for the backward pass, whole, which
    ``train.activation_checkpointing`` avoids.
    """

    name = "fsdp"
    all_compute = True

    def built_on(self, device: str) -> str:
        return "cpu"  # from where one block after the other comes to the device

    def spread(self, model: TransformerLM, device: str) -> TransformerLM:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(torch.device(device).type, (self.ranks.size,))
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        # What is left, embedding, final norm and head, is one unit, whole from the beginning of forward to the end of
        # backward.
        fully_shard(model, mesh=mesh)
        return model

    @contextmanager
    def reading(self, model: TransformerLM) -> Iterator[None]:
        root: FSDPModule = model  # type: ignore[assignment]
        try:
            yield
        finally:
            # Without a backward pass nothing else would: the model would go on having whole weights, which the
            # optimizer does not know.
            root.reshard()


def make_parallel(kind: str, ranks: Ranks) -> Parallel:
    """The way that a config asks for (train.parallel), which only matters on several ranks."""
    if ranks.size == 1:
        return Parallel(ranks)
    return {"ddp": DDP, "fsdp": FSDP}[kind](ranks)
