"""Values of the options that a plan varies, and all their combinations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from groundup.config import by_full_names
from groundup.config.names import default_options
from groundup.config.recipe import suggestion
from groundup.errors import ConfigError

Values = tuple[Any, ...]
_FORMS = "expected a list of values, {log = [low, high], points = n} or {linear = [low, high], points = n}"
_DIGITS = 3


def read_axes(tables: Mapping[str, Any]) -> dict[str, Values]:
    """Read ``[axes]``: values by the full names of options.

    Raises:
        ConfigError: an unknown option, an axis without values, or a repeated value.
    """
    return {
        name: _distinct(f"axes.{name}", axis_values(name, written, f"axes.{name}"))
        for name, written in by_full_names(tables, "axes").items()
    }


def read_zipped(tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Values]]:
    """Read ``[[zipped]]``: in each table, lists of equal length whose values move together.

    Raises:
        ConfigError: lists of different lengths, or anything that :func:`read_axes` refuses.
    """
    found = []
    for i, table in enumerate(tables):
        place = f"zipped[{i}]"
        named = by_full_names(table, place)
        columns = {name: axis_values(name, written, f"{place}.{name}") for name, written in named.items()}
        lengths = {name: len(values) for name, values in columns.items()}
        if not columns:
            raise ConfigError(f"{place} is empty; expected lists of equal length, or leave it out")
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise ConfigError(f"{place}: {listed}; values that move together need lists of one length")
        _distinct(place, list(zip(*columns.values(), strict=True)))
        found.append(columns)
    return found


def axis_values(option: str, written: Any, place: str) -> Values:
    """The values of one axis. Inner points of a range are rounded to three significant digits, to be readable.

    Raises:
        ConfigError: no values, or an unknown form.
    """
    default = default_options()[option]
    if isinstance(written, list):
        if not written:
            raise ConfigError(f"{place} is empty; give it values, or leave the axis out")
        return tuple(plain(value, default) for value in written)
    if not isinstance(written, Mapping):
        raise ConfigError(f"{place} = {written!r}; {_FORMS}")
    kinds = [key for key in written if key in ("log", "linear")]
    for key in written:
        if key not in ("log", "linear", "points"):
            raise ConfigError(f"unknown key {place}.{key}{suggestion(key, ('log', 'linear', 'points'))}")
    points = written.get("points")
    if len(kinds) != 1 or type(points) is not int or points < 2:
        raise ConfigError(f"{place} = {dict(written)!r}; {_FORMS}, with at least 2 points")
    low, high = ends(written[kinds[0]], f"{place}.{kinds[0]}", positive=kinds[0] == "log")
    values = spaced(low, high, points, log=kinds[0] == "log")
    return tuple(round(value) if type(default) is int else value for value in values)


def ends(written: Any, place: str, *, positive: bool) -> tuple[float, float]:
    """The two ends of a range.

    Raises:
        ConfigError: not two numbers in ascending order, or not positive where they must be.
    """
    numbers = isinstance(written, list) and all(type(end) in (int, float) for end in written)
    if not numbers or len(written) != 2 or not -math.inf < written[0] < written[1] < math.inf:
        raise ConfigError(f"{place} = {written!r}; expected [low, high], two numbers in ascending order")
    if positive and written[0] <= 0:
        raise ConfigError(f"{place} = {written!r}; both ends must be positive")
    return written[0], written[1]


def spaced(low: float, high: float, points: int, *, log: bool) -> list[float]:
    """Evenly spaced values, on a linear or logarithmic scale; the ends are exact."""
    shares = [i / (points - 1) for i in range(1, points - 1)]
    inner = [low * (high / low) ** share if log else low + (high - low) * share for share in shares]
    return [float(low), *(float(f"{value:.{_DIGITS}g}") for value in inner), float(high)]


def plain(value: Any, default: Any) -> Any:
    """Convert a TOML integer to float if the option is a float; so are those that are unset by default."""
    return float(value) if isinstance(default, float | None) and type(value) is int else value


def combinations(axes: Mapping[str, Values], zipped: Sequence[Mapping[str, Values]]) -> list[dict[str, Any]]:
    """All combinations of the axes and zipped tables; the last one varies fastest, as in nested loops."""
    choices = [[{name: value} for value in values] for name, values in axes.items()]
    for table in zipped:
        choices.append([dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)])
    return [{name: value for part in chosen for name, value in part.items()} for chosen in itertools.product(*choices)]


def _distinct(place: str, values: Sequence[Any]) -> Values:
    for i, value in enumerate(values):
        if any(value == other and type(value) is type(other) for other in values[:i]):
            raise ConfigError(f"{place} has {value!r} twice; each value is a separate setting, so leave one out")
    return tuple(values)
