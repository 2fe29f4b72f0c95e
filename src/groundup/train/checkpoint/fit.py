"""Whether saved weights belong to a model."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from groundup.errors import CheckpointError


def check_fit(source: str, saved: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Refuse weights whose names or shapes are not the model's, naming the first that differs.

    Raises:
        CheckpointError: they were made by another architecture.
    """
    for name in wanted:
        if name not in saved:
            raise CheckpointError(f"{source} has no {name}; it was made by another architecture")
        if saved[name].shape != wanted[name].shape:
            raise CheckpointError(
                f"{source}: {name} has shape {tuple(saved[name].shape)}, the model's has {tuple(wanted[name].shape)}; "
                f"it was made by another architecture"
            )
    for name in saved:
        if name not in wanted:
            raise CheckpointError(f"{source} has {name}, which the model has not; it was made by another architecture")
    for name, other in _tied(wanted):
        if not torch.equal(saved[name], saved[other]):
            raise CheckpointError(
                f"{source}: {name} and {other} differ, but the model ties them; it was made without tied embeddings"
            )


def _tied(tensors: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        # A share of a tensor (DTensor) has no address, and nothing in common with others: a tied one comes once.
        address = tensor.data_ptr()
        if tensor.numel() and address and (other := first.setdefault(address, name)) != name:
            yield other, name
