"""How much an update moves the weights: the first thing to look at when a learning rate is in doubt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from groundup.optim.dtensor import whole


@contextmanager
def update_ratios(optimizer: torch.optim.Optimizer, *, measure: bool) -> Iterator[dict[str, float | None]]:
    """Within the block the optimizer makes a step; after it the dictionary holds the group's ratios.

    The ratio is RMS(Δθ) / RMS(θ before), over all weights of a parameter group. For AdamW at a rate that suits it,
    it is about 1e-3. The weights are copied first, which takes their memory once more; the numbers of the run stay
    as they are.

    Args:
        measure: False leaves the dictionary empty and costs nothing.

    Returns:
        ``update_ratio_NAME`` for every group, by its name; None where all its weights were zero.
    """
    ratios: dict[str, float | None] = {}
    if not measure:
        yield ratios
        return
    groups = {str(group.get("name", i)): group["params"] for i, group in enumerate(optimizer.param_groups)}
    before = {name: [p.detach().clone() for p in params] for name, params in groups.items()}
    yield ratios
    for name, params in groups.items():
        weights = _norm(before[name])
        torch._foreach_sub_(before[name], [p.detach() for p in params])
        ratios[f"update_ratio_{name}"] = _norm(before[name]) / weights if weights else None


def _norm(tensors: list[Tensor]) -> float:
    # One number of each tensor leaves the device; their squares are summed in float64.
    return math.sqrt(sum(whole(n).item() ** 2 for n in torch._foreach_norm(tensors)))
