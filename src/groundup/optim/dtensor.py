"""Parameters that are spread over several processes (DTensor, as FSDP2 makes them), seen by an optimizer.

What works element by element works on each process's own share. What needs the whole matrix gathers it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import torch
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


@torch.no_grad()
def fill(tensor: Tensor, content: Tensor) -> None:
    """Set a tensor, of which this process may have a share, from the whole of its content; nothing is sent."""
    if is_sharded(tensor):
        local(tensor).copy_(own_share(content.to(tensor.device), tensor))
    else:
        tensor.copy_(content)


def laid_out_like(parameter: Tensor, content: Tensor) -> Tensor:
    """A copy of what an optimizer keeps for a parameter, on its device and spread as it is.

    Args:
        content: of the parameter's shape; or a single number, or one for each row, which are not spread. On the device
            "meta" it only tells shape and dtype, and the result is not filled.
    """
    if content.shape == parameter.shape:
        result = torch.empty_like(parameter, dtype=content.dtype, requires_grad=False)
    else:
        result = torch.empty_like(content, device=parameter.device)
    if not content.is_meta:
        fill(result, content)
    return result
