"""Trials of a plan: every run it consists of, with a name that shows what it varies."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.config import RunConfig, check_warmup, flatten, from_dict
from groundup.display.units import value_text
from groundup.errors import ConfigError
from groundup.sweeps.axes import combinations
from groundup.sweeps.budget import shortened_warmup
from groundup.sweeps.rules import as_option, in_order

if TYPE_CHECKING:
    from groundup.sweeps.plan import Plan

_LONGEST_NAME = 120
_WARMUP, _STEPS = "optim.warmup_iters", "train.max_iters"


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: a setting with a seed."""

    name: str
    """Name of the run directory: the setting and the seed."""
    setting: str
    """What the seeds have in common; "all" if nothing is varied."""
    varied: dict[str, Any]
    """Options set by axes, zipped lists or a search, by full names."""
    variant: str | None
    seed: int
    config: RunConfig
    is_baseline: bool = False

    @cached_property
    def options(self) -> dict[str, Any]:
        """All options by full names."""
        return flatten(self.config)


def expand(plan: Plan, directory: Path) -> list[Trial]:
    """All trials of a plan without a search, in its order.

    Raises:
        ConfigError: an invalid trial, two trials of one name, or a baseline that matches no setting or several.
    """
    trials = [
        trial
        for variant in plan.variants or [None]
        for varied in combinations(plan.axes, plan.zipped)
        for trial in trials_of(plan, directory, varied, variant)
    ]
    _check_names(trials)
    baselines = list(dict.fromkeys(trial.setting for trial in trials if trial.is_baseline))
    if plan.baseline is not None and not baselines:
        settings = ", ".join(dict.fromkeys(trial.setting for trial in trials))
        raise ConfigError(f"baseline = {plan.baseline!r} is none of the settings: {settings}")
    if len(baselines) > 1:
        raise ConfigError(
            f"baseline = {plan.baseline!r} matches {len(baselines)} settings ({', '.join(baselines)}); name one, by a "
            "value of each axis, and variant = … where there are variants"
        )
    return trials


def trials_of(
    plan: Plan, directory: Path, varied: Mapping[str, Any], variant: str | None = None, label: str = ""
) -> list[Trial]:
    """The trials of one setting, one for each seed.

    Args:
        label: beginning of the name; by default the variant's name.

    Raises:
        ConfigError: the setting is invalid; it is named.
    """
    parts = [label or variant or "", *(f"{_last(name)}={value_text(value)}" for name, value in varied.items())]
    setting = _legal(",".join(part for part in parts if part)) or "all"
    own = plan.variants[variant] if variant else {}
    try:
        options = resolve(plan, dict(own) | dict(varied))
        placed = options | {"name": setting, "runs_dir": str(directory), "track.group": plan.name}
        config = from_dict(RunConfig, nested(placed))
        check_warmup(config)
        if plan.stop is not None:
            for place in plan.stop.at:
                plan.stop.step(place, config)
        trials = []
        for seed in plan.seeds:
            name = f"{setting},seed-{seed}" if setting != "all" else f"seed-{seed}"
            seeded = replace(config, name=name, train=replace(config.train, seed=seed))
            is_baseline = _is_baseline(plan.baseline, placed | {"variant": variant, "train.seed": seed})
            trials.append(Trial(name, setting, dict(varied), variant, seed, seeded, is_baseline))
    except ConfigError as error:
        raise ConfigError(f"setting {setting}: {error}") from None
    return trials


def resolve(plan: Plan, own: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a setting: those of the recipe, the plan and the setting, then what rules and budget derive.

    Raises:
        ConfigError: a rule or the budget has no value for these options.
    """
    options = plan.base_options | dict(own)
    rules = {name: rule for name, rule in plan.rules.items() if name not in own}
    budget = plan.budget
    if not rules and budget is None:
        return options
    computed = {budget.sets: [name for name in rules if budget.needs(name)]} if budget else {}
    for name in in_order(rules, computed):
        if budget and name == budget.sets:
            options |= budget.options(options)
            # A warm-up that the setting itself declares is kept.
            if _WARMUP not in own and _WARMUP not in rules:
                steps = plan.base_options[_STEPS]
                options[_WARMUP] = shortened_warmup(options[_WARMUP], steps, options[_STEPS])
        else:
            options[name] = as_option(name, rules[name].value(options), options[name])
    return options


def _check_names(trials: Iterable[Trial]) -> None:
    """Refuse two trials of one name, also on file systems that ignore case.

    Raises:
        ConfigError: there are two.
    """
    seen: dict[str, Trial] = {}
    for trial in trials:
        other = seen.setdefault(trial.name.lower(), trial)
        if other is not trial:
            raise ConfigError(
                f"two trials are named {trial.name}: {other.varied} and {trial.varied}; give other values"
            )


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as nested tables, the inverse of :func:`groundup.config.flatten`."""
    tables: dict[str, Any] = {}
    for name, value in options.items():
        *sections, last = name.split(".")
        place = tables
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return tables


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _is_baseline(baseline: str | dict[str, Any] | None, options: Mapping[str, Any]) -> bool:
    if baseline is None or isinstance(baseline, str):
        return baseline is not None and options["variant"] == baseline
    return all(options[name] == value for name, value in baseline.items())


def _legal(name: str) -> str:
    """A name that every file system and shell accepts; a long one ends in a hash of the whole."""
    legal = re.sub(r"[^\w.,=+-]+", "-", name).strip("-.")
    if len(legal.encode()) <= _LONGEST_NAME:
        return legal
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{legal.encode()[:_LONGEST_NAME].decode(errors='ignore')}-{digest}"
