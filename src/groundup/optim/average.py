"""The average of the weights over the last steps of a run (train.average_last).

It is kept beside the optimizer's state of each parameter, so that it is sharded, saved and restored like a moment. A
checkpoint with an average holds it as its weights: this is what everything that reads a checkpoint takes. The weights
that training goes on with are then in the file of the optimizer, as ``NAME.raw``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from groundup.config import RunConfig
from groundup.optim.dtensor import local
from groundup.optim.schedule import first_averaged_step

AVERAGE = "average"
"""Kind of the optimizer's tensors that hold the average."""
RAW = "raw"
"""Kind of those that hold the weights, in a checkpoint whose weights are the average."""


def is_averaged(step: int, progress: float, config: RunConfig) -> bool:
    """Whether the weights after a step belong to the average.

    Args:
        step: counted from 1.
        progress: share of the schedule that is done after it.
    """
    if config.train.schedule_by_time:
        return progress > 1 - config.train.average_last
    return step >= first_averaged_step(config)


@torch.no_grad()
def update_average(optimizer: torch.optim.Optimizer, count: int, decay: float) -> None:
    """Add the weights to the average: their mean as long as 1 / count is above 1 - decay, then exponential.

    Args:
        count: how many weights the average is of, these included; with 1 it begins.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if count == 1:
        for p in parameters:
            optimizer.state[p][AVERAGE] = p.detach().clone()
        return
    averages = [local(optimizer.state[p][AVERAGE]) for p in parameters]
    torch._foreach_lerp_(averages, [local(p.detach()) for p in parameters], max(1 / count, 1 - decay))


@contextmanager
def averaged_weights(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Give the parameters the average in the block, if there is one, and afterwards their own values, bit for bit."""
    pairs = list(_with(AVERAGE, optimizer))
    _swap(pairs)
    try:
        yield
    finally:
        _swap(pairs)


def take_back_weights(optimizer: torch.optim.Optimizer, *, keep: bool) -> None:
    """Give the parameters their own values after a checkpoint was read whose weights are an average.

    Args:
        keep: go on with the average; otherwise forget it.
    """
    pairs = list(_with(RAW, optimizer))
    _swap(pairs)
    for p, average in pairs:
        del optimizer.state[p][RAW]
        if keep:
            optimizer.state[p][AVERAGE] = average


def _with(kind: str, optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, Tensor]]:
    for p, own in optimizer.state.items():
        if kind in own:
            yield p, own[kind]


@torch.no_grad()
def _swap(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for one, other in ((local(p.detach()), local(tensor)) for p, tensor in pairs):
        kept = one.clone()  # one at a time: no more memory than the largest
        one.copy_(other)
        other.copy_(kept)
