"""Optimizers, their groups of parameters, learning-rate schedules and gradient clipping."""

from groundup.optim.adamw import AdamW
from groundup.optim.clip import clip_gradients, gradient_clipping
from groundup.optim.groups import CombinedOptimizer, build_optimizer, parameter_groups
from groundup.optim.muon import Muon, orthogonalize
from groundup.optim.schedule import (
    describe_schedule,
    get_lr_cosine_schedule,
    last_shared_step,
    learning_rate,
    learning_rate_at,
    muon_momentum,
)
from groundup.optim.sgd import SGD

__all__ = [
    "SGD",
    "AdamW",
    "CombinedOptimizer",
    "Muon",
    "build_optimizer",
    "clip_gradients",
    "describe_schedule",
    "get_lr_cosine_schedule",
    "gradient_clipping",
    "last_shared_step",
    "learning_rate",
    "learning_rate_at",
    "muon_momentum",
    "orthogonalize",
    "parameter_groups",
]
