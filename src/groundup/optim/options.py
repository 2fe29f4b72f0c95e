"""Checks that several optimizers share."""

import math

from groundup.errors import ConfigError


def check_learning_rate(lr: float) -> None:
    """Refuse a rate that is negative, infinite or NaN."""
    if not 0 <= lr < math.inf:
        raise ConfigError(f"lr = {lr}; expected a finite number, 0 or greater")
