"""Stochastic gradient descent with a learning rate that decays as 1/sqrt(t)."""

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from groundup.optim.base import GroupwiseOptimizer, check_learning_rate


class SGD(GroupwiseOptimizer):
    """``θ <- θ - lr / sqrt(t + 1) · ∇L``, with t counted from 0 for each parameter.

    Args:
        lr: learning rate of the first step.

    Raises:
        ConfigError: lr is negative or not finite.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3):
        check_learning_rate(lr)
        super().__init__(params, {"lr": lr})

    def _update(self, group: dict[str, Any], skip: Tensor | None) -> None:
        if skip is not None and skip:
            return
        for p in group["params"]:
            if p.grad is None:
                continue
            t = self.state[p].get("t", 0)
            p.add_(p.grad, alpha=-group["lr"] / math.sqrt(t + 1))
            self.state[p]["t"] = t + 1
