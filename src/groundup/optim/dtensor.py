"""Parameters that are spread over several processes (DTensor, as FSDP2 makes them), seen by an optimizer.

What works element by element works on each process's own share. What needs the whole matrix gathers it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether it is a DTensor."""
    return hasattr(tensor, "to_local")  # so that one process need not import torch.distributed.tensor


def local(tensor: Tensor) -> Tensor:
    """This process's share, in the same memory; of an ordinary tensor, the tensor itself. Call it under no_grad."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be spread; all processes must call it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def gather(share: Tensor, like: DTensor) -> Tensor:
    """The whole tensor from the shares of all processes, laid out as ``like`` is. All processes must call it."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        share, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    ).full_tensor()


def own_share(tensor: Tensor, like: DTensor) -> Tensor:
    """This process's share of a tensor that all processes have in full; nothing is sent."""
    from torch.distributed.tensor import DTensor, Replicate

    everywhere = DTensor.from_local(tensor, like.device_mesh, [Replicate()] * like.device_mesh.ndim)
    return everywhere.redistribute(placements=like.placements).to_local()
