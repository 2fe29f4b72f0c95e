"""Which parameter is updated how: groups by rule, and a table of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from groundup.config import OptimConfig
from groundup.errors import ConfigError
from groundup.nn import Embedding
from groundup.optim.combined import CombinedOptimizer


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters of a model by what they are; each is in one group, and groups may be empty.

    embedding: tables of Embedding layers, also where a table is the output matrix too. head: the weight of the layer
    named ``lm_head``. matrices: every other parameter of two or more dimensions. vectors: the rest, the norms' gains.
    """
    groups: dict[str, list[nn.Parameter]] = {"embedding": [], "head": [], "matrices": [], "vectors": []}
    tables = {id(m.weight) for m in model.modules() if isinstance(m, Embedding | nn.Embedding)}
    for name, parameter in model.named_parameters():
        if id(parameter) in tables:
            kind = "embedding"
        elif name.endswith("lm_head.weight"):
            kind = "head"
        else:
            kind = "matrices" if parameter.ndim >= 2 else "vectors"
        groups[kind].append(parameter)
    return groups


def build_optimizer(model: nn.Module, config: OptimConfig) -> CombinedOptimizer:
    """The optimizer a config describes; every group begins at the peak of the schedule, times its scale.

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


@dataclass(frozen=True)
class GroupRow:
    """One group of an optimizer, for a person to read."""

    name: str
    algorithm: str
    tensors: int
    parameters: int
    """Numbers in these tensors, over all processes."""
    rate: float
    """Of the next step; before the first, the peak."""
    decay: float


def group_table(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[GroupRow]:
    """What the optimizer does with which part of the model; a parameter that needs no gradient may be in no group.

    Raises:
        ConfigError: a parameter of the model is in no group, or in more than one.
    """
    members = [id(p) for group in optimizer.param_groups for p in group["params"]]
    for name, parameter in model.named_parameters():
        count = members.count(id(parameter))
        if count > 1 or (count == 0 and parameter.requires_grad):
            raise ConfigError(f"{name} is in {count} groups of the optimizer; expected 1, see parameter_groups")
    return [
        GroupRow(
            name=group["name"],
            algorithm=group["algorithm"],
            tensors=len(group["params"]),
            parameters=sum(p.numel() for p in group["params"]),
            rate=group["lr"],
            decay=group["weight_decay"],
        )
        for group in optimizer.param_groups
    ]
