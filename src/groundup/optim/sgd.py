"""Stochastic gradient descent with a rate that decays as 1/sqrt(t), the smallest optimizer there is."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from groundup.optim.options import check_learning_rate


class SGD(torch.optim.Optimizer):
    """``θ <- θ - lr / sqrt(t + 1) · ∇L``, with t counted from 0 for each parameter.

    Args:
        lr: rate of the first step.

    Raises:
        ConfigError: lr is negative or not finite.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3):
        check_learning_rate(lr)
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; returns what ``closure`` returns, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                t = self.state[p].get("t", 0)
                p -= group["lr"] / math.sqrt(t + 1) * p.grad
                self.state[p]["t"] = t + 1
        return loss
