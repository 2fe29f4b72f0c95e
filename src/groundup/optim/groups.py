"""Parameter groups, and the optimizer that updates each group by its own algorithm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from groundup.config import OptimConfig
from groundup.config.options import RATE_SCALES
from groundup.errors import ConfigError
from groundup.nn import Embedding
from groundup.optim.adamw import adamw_update
from groundup.optim.base import GroupwiseOptimizer, check_learning_rate
from groundup.optim.muon import check_matrix, muon_update


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters of a model by kind; each is in one group, and groups may be empty.

    embedding: tables of Embedding layers, also where a table is the output matrix too. head: the weight of the layer
    named ``lm_head``. matrices: every other parameter of two or more dimensions. vectors: the rest, the norms' gains
    and biases. value_embedding: parameters below ``value_embeddings``. scalars: ``residual_scalars``,
    ``first_scalars`` and the weights of layers named ``value_gate``.
    """
    kinds = ("embedding", "head", "matrices", "vectors", "value_embedding", "scalars")
    groups: dict[str, list[nn.Parameter]] = {kind: [] for kind in kinds}
    tables = {id(m.weight) for m in model.modules() if isinstance(m, Embedding | nn.Embedding)}
    for name, parameter in model.named_parameters():
        path = name.split(".")
        if "value_embeddings" in path[:-1]:
            kind = "value_embedding"
        elif path[-1] in ("residual_scalars", "first_scalars") or path[-2:] == ["value_gate", "weight"]:
            kind = "scalars"
        elif id(parameter) in tables:
            kind = "embedding"
        elif name.endswith("lm_head.weight"):
            kind = "head"
        else:
            kind = "matrices" if parameter.ndim >= 2 else "vectors"
        groups[kind].append(parameter)
    return groups


def build_optimizer(model: nn.Module, config: OptimConfig) -> CombinedOptimizer:
    """Build the optimizer of a config; every group begins at the peak learning rate times its scale.

    With ``optimizer = "muon"`` Muon takes the matrices, and AdamW the rest (Jordan et al. 2024).

    Raises:
        ConfigError: optim.groups has a group of which the model has no parameter.
    """
    members = parameter_groups(model)
    own = config.groups.given
    for name in own:
        if not members[name]:
            there = ", ".join(kind for kind, parameters in members.items() if parameters)
            raise ConfigError(
                f"optim.groups.{name} is set, but this model has no parameter of that group; it has {there}; "
                f"leave it out"
            )
    decayed = members if config.decay == "all" else ("head", "matrices")
    groups: list[dict[str, Any]] = []
    for name, parameters in members.items():
        if not parameters:
            continue
        given = own.get(name, {})
        scale = given.get("rate", getattr(config, RATE_SCALES[name]) if name in RATE_SCALES else 1.0)
        is_muon = config.optimizer == "muon" and name == "matrices"
        groups.append(
            {
                "params": parameters,
                "name": name,
                "lr": config.max_learning_rate * scale,
                "rate_scale": scale,
                "weight_decay": given.get("decay", config.weight_decay if name in decayed else 0.0),
                "cautious": config.cautious_decay,
                **(_muon(config, model) if is_muon else _adamw(config, given)),
            }
        )
    return CombinedOptimizer(groups)


def _adamw(config: OptimConfig, given: Mapping[str, float]) -> dict[str, Any]:
    betas = given.get("beta1", config.beta1), given.get("beta2", config.beta2)
    return {"algorithm": "adamw", "betas": betas, "eps": config.eps}


def _muon(config: OptimConfig, model: nn.Module) -> dict[str, Any]:
    return {
        "algorithm": "muon",
        "momentum": config.muon_momentum,
        "iterations": config.muon_iterations,
        "scale": config.muon_scale,
        "coefficients": config.muon_coefficients,
        "equalize": config.muon_equalize,
        "variance": config.muon_variance,
        "dtype": None if config.muon_dtype == "auto" else getattr(torch, config.muon_dtype),
        "rounded": getattr(model, "compute_dtype", None) == torch.bfloat16,
    }


class CombinedOptimizer(GroupwiseOptimizer):
    """Optimizer that updates each group by AdamW (fused) or Muon, under one schedule.

    Each group has, beside ``params`` and the numbers of its algorithm,

        name          one of :func:`parameter_groups`
        algorithm     "adamw" or "muon"
        lr            learning rate of the next step
        rate_scale    factor on the schedule's learning rate
        weight_decay  λ

    State is kept by parameter, as the algorithms (:class:`AdamW`, :class:`Muon`) describe it.

    Raises:
        ConfigError: an unknown algorithm, or Muon for a parameter that is not a matrix.
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
        """Set the learning rate of the next step: ``learning_rate`` times each group's scale."""
        if not 0 <= learning_rate < math.inf:
            check_learning_rate(learning_rate)  # raises
        for group in self.param_groups:
            group["lr"] = learning_rate * group["rate_scale"]

    def set_momentum(self, momentum: float) -> None:
        """Set the momentum of Muon's next step."""
        for group in self.param_groups:
            if group["algorithm"] == "muon":
                group["momentum"] = momentum

    @torch.no_grad()
    def step(self, *, skip: Tensor | None = None) -> None:  # type: ignore[override]  # no closure
        """Update every parameter that has a gradient; ``skip`` as in :meth:`GroupwiseOptimizer.step`."""
        for group in self.param_groups:
            if group["algorithm"] == "muon":
                muon_update(group, self.state, group.get("dtype"), rounded=group.get("rounded", False), skip=skip)
            else:
                adamw_update(group, self.state, fused=True, skip=skip)
