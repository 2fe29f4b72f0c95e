"""Checks that several optimizers share."""

import math

from groundup.errors import ConfigError


def check_learning_rate(lr: float) -> None:
    """Refuse a rate that is negative, infinite or NaN."""
    if not 0 <= lr < math.inf:
        raise ConfigError(f"lr = {lr}; expected a finite number, 0 or greater")


def check_weight_decay(weight_decay: float) -> None:
    """Refuse a decay that is negative, infinite or NaN."""
    if not 0 <= weight_decay < math.inf:
        raise ConfigError(f"weight_decay = {weight_decay}; expected a finite number, 0 or greater")
