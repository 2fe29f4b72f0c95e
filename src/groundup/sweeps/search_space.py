"""What a search may choose: ``[search]`` of a plan and its ``[search.space]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from groundup.config import RunConfig, by_full_names, flatten, from_dict
from groundup.config.recipe import suggestion
from groundup.errors import ConfigError
from groundup.sweeps.axes import ends, plain


@dataclass(frozen=True)
class Choices:
    """One of several values, in no order."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """A number between two ends, both included."""

    low: float
    high: float
    log: bool
    whole: bool


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How a space is searched."""

    trials: int = 20
    """Points that are tried; each is a cell for every seed."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Tree-structured Parzen estimator (Bergstra et al. 2011), or uniform draws as a baseline for it."""
    at_once: int = 4
    """Trials that are chosen before any of them is known. It decides the result; how many run at once does not."""
    seed: int = 0
    """Of the sampler."""
    measure: Literal["val_loss", "best_val_loss", "val_bpb"] = "val_loss"
    """What is to be small, as the mean over seeds."""

    def __post_init__(self) -> None:
        for name in ("trials", "at_once"):
            if getattr(self, name) < 1:
                raise ConfigError(f"search.{name} = {getattr(self, name)}; expected at least 1")


@dataclass(frozen=True)
class Search:
    """A search over a space of options."""

    options: SearchOptions
    space: dict[str, Choices | Range]


def read_search(table: Mapping[str, Any]) -> Search:
    """``[search]``, strictly.

    Raises:
        ConfigError: an unknown key or option, an empty space, or a range that is none.
    """
    options = {key: value for key, value in table.items() if key != "space"}
    space = table.get("space")
    if not isinstance(space, Mapping) or not space:
        raise ConfigError("search.space is empty; name the options to choose, such as max_learning_rate = {log = …}")
    named = by_full_names(space, "search.space")
    read = {name: _dimension(name, written) for name, written in named.items()}
    return Search(from_dict(SearchOptions, options, place="search"), read)


def _dimension(name: str, written: Any) -> Choices | Range:
    place, now = f"search.space.{name}", flatten(RunConfig())[name]
    if isinstance(written, list):
        if len(written) < 2:
            raise ConfigError(f"{place} = {written!r}; expected at least two values, or put it under [options]")
        return Choices(tuple(plain(value, now) for value in written))
    if not isinstance(written, Mapping) or len(written) != 1:
        raise ConfigError(f"{place} = {written!r}; expected a list, {{log = [low, high]}} or {{linear = [low, high]}}")
    ((kind, limits),) = written.items()
    if kind not in ("log", "linear"):
        raise ConfigError(f"unknown key {place}.{kind}{suggestion(kind, ('log', 'linear'))}")
    if isinstance(now, bool) or not isinstance(now, int | float):
        raise ConfigError(f"{place}: its values are like {now!r}; expected a list of them")
    low, high = ends(limits, f"{place}.{kind}", positive=kind == "log")
    whole = isinstance(now, int)
    if whole and (low != int(low) or high != int(high)):
        raise ConfigError(f"{place}.{kind} = {limits!r}; expected whole numbers")
    return Range(low, high, log=kind == "log", whole=whole)
