"""Optimizers, the learning-rate schedule and gradient clipping."""

from groundup.optim.adamw import AdamW
from groundup.optim.clip import gradient_clipping
from groundup.optim.schedule import get_lr_cosine_schedule
from groundup.optim.sgd import SGD

__all__ = ["SGD", "AdamW", "get_lr_cosine_schedule", "gradient_clipping"]
