"""Early stopping of settings: the median rule, and successive halving.

All trials run to the same share of their steps and pause with a checkpoint. Then the validation losses recorded at that
step decide which continue. The order in which trials arrive does not matter, so a plan stops the same trials with any
number of workers, and with or without an interruption.

The seeds of a setting are judged by their mean, and stop or continue together. The baseline always continues.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from groundup.config import RunConfig
from groundup.config.recipe import suggestion
from groundup.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When trials are judged, and which settings stop."""

    rule: Literal["median", "halving"]
    """median: stop settings whose loss is above the median of those left (after Golovin et al. 2017). halving: stop all
    but the best share (Jamieson & Talwalkar 2016)."""
    at: tuple[float, ...]
    """When to judge, ascending: shares of a run's steps (below 1), or numbers of steps."""
    margin: float = 0.0
    """For the median rule: how far above the median a loss may be, in nats."""
    keep: float = 0.5
    """For halving: the share that continues, rounded up."""

    def __post_init__(self) -> None:
        if self.rule not in ("median", "halving"):
            raise ConfigError(f"stop.rule = {self.rule!r}; expected 'median' or 'halving'")
        numbers = all(type(place) in (int, float) and math.isfinite(place) for place in self.at)
        if not numbers or not self.at or min(self.at) <= 0 or list(self.at) != sorted(set(self.at)):
            raise ConfigError(f"stop.at = {list(self.at)!r}; expected shares of a run, or steps, in ascending order")
        if any(place != int(place) for place in self.at if place >= 1):
            raise ConfigError(f"stop.at = {list(self.at)!r}; expected shares below 1, or whole numbers of steps")
        if not 0 < self.keep < 1:
            raise ConfigError(f"stop.keep = {self.keep!r}; expected a share in (0, 1)")
        if not 0 <= self.margin < math.inf:
            raise ConfigError(f"stop.margin = {self.margin!r}; expected nats, 0 or more")

    def step(self, place: float, config: RunConfig) -> int:
        """The step at which a trial is judged: the evaluation nearest to the place.

        Raises:
            ConfigError: the trial is not evaluated before its last step.
        """
        train = config.train
        last = (train.max_iters - 1) // train.eval_interval
        if not config.data.valid or last < 1:
            raise ConfigError(
                f"[stop] judges by the validation loss, and the run has none before its last step (data.valid = "
                f"{config.data.valid!r}, train.eval_interval = {train.eval_interval}, train.max_iters = "
                f"{train.max_iters}); evaluate it more often"
            )
        wanted = place * train.max_iters if place < 1 else place
        return train.eval_interval * min(last, max(1, round(wanted / train.eval_interval)))

    def stopped(self, losses: Mapping[str, float], protected: Collection[str]) -> dict[str, str]:
        """Which settings stop, each with the reason.

        Args:
            losses: mean loss of each remaining setting at this place; infinite if a seed has diverged.
            protected: settings that always continue.
        """
        if len(losses) < 2:
            return {}
        if self.rule == "median":
            median = statistics.median(losses.values())
            limit, against = median + self.margin, f"the median {median:.4f}"
        else:
            kept = math.ceil(self.keep * len(losses))
            limit = sorted(losses.values())[kept - 1]
            against = f"the best {kept} of {len(losses)} (up to {limit:.4f})"
        return {
            name: f"loss {loss:.4f} against {against}"
            for name, loss in losses.items()
            if loss > limit and name not in protected
        }


def read_stop(table: Mapping[str, Any]) -> Stop:
    """Read ``[stop]``.

    Raises:
        ConfigError: an unknown key, or an impossible value.
    """
    known = ("rule", "at", "margin", "keep")
    for key in table:
        if key not in known:
            raise ConfigError(f"unknown key stop.{key}{suggestion(key, known)}")
    at = table.get("at")
    if not isinstance(at, list):
        raise ConfigError(f"stop.at = {at!r}; expected a list of places, such as [0.25, 0.5]")
    numbers = {key: table[key] for key in ("margin", "keep") if key in table}
    for key, value in numbers.items():
        if type(value) not in (int, float):
            raise ConfigError(f"stop.{key} = {value!r}; expected a number")
    return Stop(rule=table.get("rule", ""), at=tuple(at), **numbers)
