"""Parameter groups, and the optimizer that updates each group by its own algorithm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from groundup.config import OptimConfig
from groundup.errors import ConfigError
from groundup.nn import Embedding
from groundup.optim.adamw import adamw_update
from groundup.optim.base import GroupwiseOptimizer, check_learning_rate
from groundup.optim.muon import check_matrix, muon_update


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters of a model by kind; each is in one group, and groups may be empty.

    embedding: tables of Embedding layers, also where a table is the output matrix too. head: the weight of the layer
    named ``lm_head``. matrices: every other parameter of two or more dimensions. vectors: the rest, the norms' gains,
    biases, scalars, and the gates of value embeddings.
    """
    groups: dict[str, list[nn.Parameter]] = {"embedding": [], "head": [], "matrices": [], "vectors": []}
    tables = {id(m.weight) for m in model.modules() if isinstance(m, Embedding | nn.Embedding)}
    for name, parameter in model.named_parameters():
        if id(parameter) in tables:
            kind = "embedding"
        elif name.endswith("lm_head.weight"):
            kind = "head"
        elif name.endswith("value_gate.weight"):  # a row for each head, no map of the residual stream
            kind = "vectors"
        else:
            kind = "matrices" if parameter.ndim >= 2 else "vectors"
        groups[kind].append(parameter)
    return groups


def build_optimizer(model: nn.Module, config: OptimConfig) -> CombinedOptimizer:
    """Build the optimizer of a config; every group begins at the peak learning rate times its scale.

    With ``optimizer = "muon"`` Muon takes the matrices, and AdamW the rest (Jordan et al. 2024).
    """
    scales = {
        "embedding": config.embedding_rate_scale,
        "head": config.head_rate_scale,
        "matrices": config.matrix_rate_scale,
        "vectors": config.vector_rate_scale,
    }
    decayed = scales if config.decay == "all" else ("head", "matrices")
    adamw = {"algorithm": "adamw", "betas": (config.beta1, config.beta2), "eps": config.eps}
    muon = {"algorithm": "muon", "momentum": config.muon_momentum, "iterations": config.muon_iterations}
    muon["scale"] = config.muon_scale
    groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "name": name,
            "lr": config.max_learning_rate * scales[name],
            "rate_scale": scales[name],
            "weight_decay": config.weight_decay if name in decayed else 0.0,
            **(muon if config.optimizer == "muon" and name == "matrices" else adamw),
        }
        for name, parameters in parameter_groups(model).items()
        if parameters
    ]
    return CombinedOptimizer(groups)


class CombinedOptimizer(GroupwiseOptimizer):
    """Optimizer that updates each group by AdamW (fused) or Muon, under one schedule.

    Each group has, beside ``params`` and the numbers of its algorithm,

        name          embedding, head, matrices, vectors
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

    @torch.no_grad()
    def step(self, *, skip: Tensor | None = None) -> None:  # type: ignore[override]  # no closure
        """Update every parameter that has a gradient; ``skip`` as in :meth:`GroupwiseOptimizer.step`."""
        for group in self.param_groups:
            if group["algorithm"] == "muon":
                muon_update(group, self.state, skip=skip)
            else:
                adamw_update(group, self.state, fused=True, skip=skip)
