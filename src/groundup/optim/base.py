"""What the optimizers share: a step is an update of each group of parameters, and state comes back exactly."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class GroupwiseOptimizer(torch.optim.Optimizer):
    """A torch optimizer whose subclasses say only how one group is updated."""

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, *, skip: Tensor | None = None
    ) -> float | None:
        """Update every parameter that has a gradient; returns what ``closure`` returns, if one is given.

        Args:
            skip: scalar on the parameters' device, 0 or 1. If it is 1 no weight moves, and nobody has to wait to know.
                What else the optimizer remembers is of no use then: the run is to stop.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group, skip)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state; its tensors keep their dtype, which torch would cast to the parameter's."""
        super().load_state_dict(state_dict)
        parameters = [p for group in self.param_groups for p in group["params"]]
        names = [i for group in state_dict["param_groups"] for i in group["params"]]
        for p, name in zip(parameters, names, strict=True):
            for key, saved in state_dict["state"].get(name, {}).items():
                if isinstance(saved, Tensor) and saved.dtype != self.state[p][key].dtype:
                    self.state[p][key] = saved.to(p.device, copy=True)

    def _update(self, group: dict[str, Any], skip: Tensor | None) -> None:
        raise NotImplementedError
