"""Base of the optimizers: a step updates each parameter group, and state is restored exactly."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from groundup.errors import ConfigError


class GroupwiseOptimizer(torch.optim.Optimizer):
    """Torch optimizer whose subclasses define the update of one group."""

    @torch.no_grad()
    def step(  # type: ignore[override]  # torch declares overloads, without skip
        self, closure: Callable[[], float] | None = None, *, skip: Tensor | None = None
    ) -> float | None:
        """Update every parameter that has a gradient; returns what ``closure`` returns, if one is given.

        Args:
            skip: scalar on the parameters' device, 0 or 1. If 1, the update is skipped on the device, without a host
                sync. The optimizer's state is invalid afterwards: stop the run.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group, skip)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state. Its tensors keep their dtype, where torch would cast them to the parameter's."""
        super().load_state_dict(state_dict)
        parameters = [p for group in self.param_groups for p in group["params"]]
        names = [i for group in state_dict["param_groups"] for i in group["params"]]
        for p, name in zip(parameters, names, strict=True):
            for key, saved in state_dict["state"].get(name, {}).items():
                if isinstance(saved, Tensor) and saved.dtype != self.state[p][key].dtype:
                    self.state[p][key] = saved.to(p.device, copy=True)

    def _update(self, group: dict[str, Any], skip: Tensor | None) -> None:
        raise NotImplementedError


def check_learning_rate(lr: float) -> None:
    """Refuse a learning rate that is negative, infinite or NaN."""
    if not 0 <= lr < math.inf:
        raise ConfigError(f"lr = {lr}; expected a finite number, 0 or greater")


def check_weight_decay(weight_decay: float) -> None:
    """Refuse a weight decay that is negative, infinite or NaN."""
    if not 0 <= weight_decay < math.inf:
        raise ConfigError(f"weight_decay = {weight_decay}; expected a finite number, 0 or greater")
