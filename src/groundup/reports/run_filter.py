"""Choosing runs by what they are: ``d_model >= 256 and status = finished``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from groundup.config.recipe import suggestion
from groundup.errors import ConfigError

Row = Mapping[str, Any]
_CONDITION = re.compile(r"""\s*([\w.\-]+)\s*(>=|<=|!=|==|=|>|<|~)\s*("[^"]*"|'[^']*'|[^\s"'<>=!~]+)\s*""")
_JOINT = re.compile(r"(and|or)\b", re.IGNORECASE)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_EXAMPLE = "such as 'd_model >= 256 and status = finished'"


def parse_filter(text: str, names: Iterable[str]) -> Callable[[Row], bool]:
    """A predicate of rows.

    Conditions compare a column or an option, by its full name or the last part of it, with a number or a word:
    ``= != < <= > >=``, and ``~`` for words that contain another. ``and`` binds closer than ``or``. A run that lacks
    the value satisfies ``!=`` alone.

    Raises:
        ConfigError: no such name, or no such form.
    """
    names = list(names)
    alternatives: list[list[Callable[[Row], bool]]] = [[]]
    rest = text
    while True:
        found = _CONDITION.match(rest)
        if found is None:
            raise ConfigError(f"--filter: expected NAME OPERATOR VALUE at {rest.strip()!r}, {_EXAMPLE}")
        alternatives[-1].append(_condition(resolve(found[1], names), found[2], found[3]))
        rest = rest[found.end() :]
        if not rest:
            return lambda row: any(all(holds(row) for holds in conditions) for conditions in alternatives)
        joint = _JOINT.match(rest)
        if joint is None:
            raise ConfigError(f"--filter: expected 'and' or 'or' at {rest.strip()!r}, {_EXAMPLE}")
        if joint[1].lower() == "or":
            alternatives.append([])
        rest = rest[joint.end() :]


def resolve(name: str, names: Iterable[str]) -> str:
    """The full name of a column or an option.

    Raises:
        ConfigError: there is none of the name, or several end in it.
    """
    names, wanted = list(names), name.replace("-", "_")
    if wanted in names:
        return wanted
    endings = [full for full in names if full.rpartition(".")[2] == wanted]
    if len(endings) == 1:
        return endings[0]
    if endings:
        raise ConfigError(f"{name} may be {' or '.join(endings)}; write it in full")
    raise ConfigError(f"no run has {name!r}{suggestion(wanted, [*names, *(n.rpartition('.')[2] for n in names)])}")


def _condition(name: str, sign: str, value: str) -> Callable[[Row], bool]:
    word = value[1:-1] if value[0] in "\"'" else value
    number = _number(word)
    if sign in _ORDER and number is None:
        raise ConfigError(f"--filter: {name} {sign} {word}; expected a number")

    def holds(row: Row) -> bool:
        seen = row.get(name)
        if isinstance(seen, list):  # tags
            has = any(word == item if sign != "~" else word in item for item in seen)
            return not has if sign == "!=" else has
        if seen is None:
            return sign == "!="
        if sign == "~":
            return word.lower() in str(seen).lower()
        if sign in _ORDER:
            return isinstance(seen, int | float) and _ORDER[sign](seen, number)
        numbers = isinstance(seen, int | float) and not isinstance(seen, bool) and number is not None
        equal = seen == number if numbers else str(seen).lower() == word.lower()
        return equal if sign in ("=", "==") else not equal

    return holds


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
