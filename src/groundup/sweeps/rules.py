"""Rules of a plan: options that follow from others by a formula, such as ``2e-3 * sqrt(batch_size / 128)``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from groundup.config.expressions import Formula, Number
from groundup.errors import ConfigError


def read_rules(table: Mapping[str, Any]) -> dict[str, Formula]:
    """Parse ``[rules]``, whose keys are full names of options.

    Raises:
        ConfigError: a value is not a formula, or rules depend on each other in a circle.
    """
    rules = {}
    for name, text in table.items():
        if not isinstance(text, str):
            raise ConfigError(f"rules.{name} = {text!r}; expected a formula in quotes, or put it under [options]")
        try:
            rules[name] = Formula(text)
        except ConfigError as error:
            raise ConfigError(f"rules.{name}: {error}") from None
    in_order(rules)
    return rules


def in_order(rules: Mapping[str, Formula], also: Mapping[str, Collection[str]] | None = None) -> list[str]:
    """Sort the options that rules set so that each comes after those it depends on.

    Args:
        also: further computed options, with the options they depend on.

    Raises:
        ConfigError: rules depend on each other in a circle.
    """
    needs = {name: rule.options for name, rule in rules.items()}
    computed = needs | dict(also or {})
    graph = {name: [n for n in sorted(depends) if n in computed] for name, depends in computed.items()}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise ConfigError(f"[rules] go in a circle: {circle}; each option must follow from others") from None


def as_option(name: str, value: Number, now: Any) -> Number:
    """Convert a formula's value to the type of its option.

    Raises:
        ConfigError: the option is not a number, or it is an integer and the value is not.
    """
    if isinstance(now, bool) or not isinstance(now, int | float | None):
        raise ConfigError(f"[rules] {name}: its values are like {now!r}; a rule gives numbers")
    if isinstance(now, float | None):
        return float(value)
    if value != int(value):
        raise ConfigError(f"[rules] {name} = {value:g}; expected a whole number, so put round(…) around the rule")
    return int(value)
