"""The cells of a plan: every run it consists of, with a name that says what is special about it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.config import RunConfig, check_warmup, flatten, from_dict
from groundup.errors import ConfigError
from groundup.sweeps.axes import combinations
from groundup.sweeps.budget import shortened_warmup
from groundup.sweeps.rules import as_option, in_order

if TYPE_CHECKING:
    from groundup.sweeps.plan import Plan

_LONGEST_NAME = 120
_WARMUP, _STEPS = "optim.warmup_iters", "train.max_iters"


@dataclass(frozen=True)
class Cell:
    """One run of an experiment."""

    name: str
    """Of its run directory: the condition and the seed."""
    condition: str
    """What its seeds have in common; "all" where nothing is varied."""
    varied: dict[str, Any]
    """Options that axes, zipped lists or a search gave it, by full names."""
    variant: str | None
    seed: int
    config: RunConfig
    is_baseline: bool = False


def expand(plan: Plan, directory: Path) -> list[Cell]:
    """All cells of a plan without a search.

    Raises:
        ConfigError: a cell that is impossible, two of one name, or a baseline that is no cell or several.
    """
    cells = list(_cells(plan, directory))
    check_names(cells)
    if plan.baseline is not None and plan.search is None and not any(cell.is_baseline for cell in cells):
        conditions = ", ".join(dict.fromkeys(cell.condition for cell in cells))
        raise ConfigError(f"baseline = {plan.baseline!r} is none of the cells: {conditions}")
    if len(several := list(dict.fromkeys(cell.condition for cell in cells if cell.is_baseline))) > 1:
        raise ConfigError(
            f"baseline = {plan.baseline!r} is {len(several)} of the cells ({', '.join(several)}); name one, by a value "
            "of each axis, and variant = … where there are variants"
        )
    return cells


def _cells(plan: Plan, directory: Path) -> Iterator[Cell]:
    if plan.search is not None:
        return
    for variant in plan.variants or [None]:
        for varied in combinations(plan.axes, plan.zipped):
            yield from cells_of(plan, directory, varied, variant)


def cells_of(
    plan: Plan, directory: Path, varied: Mapping[str, Any], variant: str | None = None, label: str = ""
) -> list[Cell]:
    """One condition: a cell for each seed.

    Args:
        label: begins the name; it is the variant's by default.

    Raises:
        ConfigError: the condition is impossible; it is named.
    """
    parts = [label or variant or "", *(f"{_last(name)}={value_text(value)}" for name, value in varied.items())]
    condition = _legal(",".join(part for part in parts if part)) or "all"
    own = plan.variants[variant] if variant else {}
    try:
        options = resolve(plan, dict(own) | dict(varied))
        found = []
        for seed in plan.seeds:
            name = f"{condition},seed-{seed}" if condition != "all" else f"seed-{seed}"
            placed = options | {"name": name, "runs_dir": str(directory), "train.seed": seed, "track.group": plan.name}
            config = from_dict(RunConfig, nested(placed))
            check_warmup(config)
            if plan.stop is not None:
                for place in plan.stop.at:
                    plan.stop.step(place, config)
            cell = Cell(name, condition, dict(varied), variant, seed, config)
            found.append(replace(cell, is_baseline=_is_baseline(plan.baseline, cell)))
    except ConfigError as error:
        raise ConfigError(f"cell {condition}: {error}") from None
    return found


def resolve(plan: Plan, own: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a condition: recipe, plan, its own, then what follows from them by rules and budget.

    Raises:
        ConfigError: a rule or the budget has no value there.
    """
    options = flatten(plan.base) | dict(own)
    rules = {name: rule for name, rule in plan.rules.items() if name not in own}
    budget = plan.budget
    computed = {budget.sets: [name for name in rules if budget.needs(name)]} if budget else {}
    for name in in_order(rules, computed):
        if budget and name == budget.sets:
            options |= budget.options(options)
            # A warm-up that somebody has chosen for the cell is left as it is.
            if _WARMUP not in own and _WARMUP not in rules:
                steps = flatten(plan.base)[_STEPS]
                options[_WARMUP] = shortened_warmup(options[_WARMUP], steps, options[_STEPS])
        else:
            options[name] = as_option(name, rules[name].value(options), options[name])
    return options


def check_names(cells: Iterable[Cell]) -> None:
    """Refuse two cells of one name, also where a file system takes upper and lower case for the same.

    Raises:
        ConfigError: there are two.
    """
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.name.lower(), cell)
        if other is not cell:
            raise ConfigError(f"two cells are named {cell.name}: {other.varied} and {cell.varied}; give other values")


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as tables in tables, the inverse of :func:`groundup.config.flatten`."""
    tables: dict[str, Any] = {}
    for name, value in options.items():
        *sections, last = name.split(".")
        place = tables
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return tables


def value_text(value: Any) -> str:
    """A value as it stands in a name: as short as it can be without becoming another one."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _is_baseline(baseline: str | dict[str, Any] | None, cell: Cell) -> bool:
    if baseline is None:
        return False
    if isinstance(baseline, str):
        return cell.variant == baseline
    options = flatten(cell.config) | {"variant": cell.variant}
    return all(options[name] == value for name, value in baseline.items())


def _legal(name: str) -> str:
    """A name that every file system takes, and no shell breaks apart; a long one ends in a hash of the whole."""
    legal = re.sub(r"[^\w.,=+-]+", "-", name).strip("-.")
    if len(legal.encode()) <= _LONGEST_NAME:
        return legal
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{legal.encode()[:_LONGEST_NAME].decode(errors='ignore')}-{digest}"
