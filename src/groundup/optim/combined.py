"""Several groups of parameters, each with its own algorithm, as one optimizer."""

from typing import Any

from torch import Tensor

from groundup.errors import ConfigError
from groundup.optim.adamw import adamw_update
from groundup.optim.base import GroupwiseOptimizer
from groundup.optim.muon import check_matrix, muon_update
from groundup.optim.options import check_learning_rate


class CombinedOptimizer(GroupwiseOptimizer):
    """Groups that are updated by AdamW (fused) or Muon, under one schedule; :func:`build_optimizer` makes them.

    Each group has, beside ``params`` and the numbers of its algorithm,

        name          embedding, head, matrices, vectors
        algorithm     "adamw" or "muon"
        lr            rate of the next step
        rate_scale    what the schedule's rate is multiplied by for this group
        weight_decay  λ

    State is kept by parameter, as the algorithms (:class:`AdamW`, :class:`Muon`) describe it.

    Raises:
        ConfigError: an algorithm there is not, or Muon for a parameter that is not a matrix.
    """

    def __init__(self, groups: list[dict[str, Any]]):
        for group in groups:
            if group["algorithm"] not in ("adamw", "muon"):
                raise ConfigError(f"algorithm = {group['algorithm']!r} of {group['name']}; expected adamw or muon")
            if group["algorithm"] == "muon":
                for p in group["params"]:
                    check_matrix(p)
        super().__init__(groups, {})

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the rate of the next step: learning_rate times each group's scale."""
        check_learning_rate(learning_rate)
        for group in self.param_groups:
            group["lr"] = learning_rate * group["rate_scale"]

    def _update(self, group: dict[str, Any], skip: Tensor | None) -> None:
        if group["algorithm"] == "muon":
            muon_update(group, self.state, skip=skip)
        else:
            adamw_update(group, self.state, fused=True, skip=skip)
