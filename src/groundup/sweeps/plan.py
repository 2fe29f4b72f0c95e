"""Plans: experiments declared in TOML: what varies, the seeds, the budget and the baseline.

    name = "learning-rate"
    question = "Which peak learning rate is best, and where does training diverge?"
    recipe = "tinystories-cpu"          # shipped, or a path beside the plan
    seeds = 3                           # or a list
    baseline = { max_learning_rate = 1e-3, batch_size = 8 }

    [options]                           # override the recipe, for all trials
    eval_interval = 50

    [axes]                              # all combinations
    max_learning_rate = { log = [1e-4, 1e-1], points = 4 }
    batch_size = [8, 32]

    [[zipped]]                          # lists whose values move together
    [variants.no-norm]                  # named ablations, one more axis
    [rules]                             # warmup_iters = "round(0.05 * max_iters)"
    [budget]                            # fixed = "tokens", amount = 5_000_000
    [stop]                              # rule = "median", at = [0.25, 0.5]
    [budgets.minutes]                   # options, seeds, axes, variants, recipe, rules, budget of `--budget minutes`
    [published]                         # source = "…", losses = { "0.001" = 1.377 }: shown beside the results

An unknown key is an error that names the nearest valid one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from groundup.config import RunConfig, by_full_names, flatten, from_dict, load_toml, override
from groundup.config.expressions import Formula
from groundup.config.names import default_options
from groundup.config.recipe import recipes_dir, suggestion
from groundup.errors import ConfigError, FileMissingError
from groundup.record.parent import inheriting_recipe
from groundup.sweeps.axes import Values, plain, read_axes, read_zipped
from groundup.sweeps.budget import Budget
from groundup.sweeps.rules import read_rules
from groundup.sweeps.search import Search, read_search
from groundup.sweeps.stopping import Stop, read_stop
from groundup.sweeps.trials import Trial, expand

_KEYS = (
    "name", "question", "recipe", "seeds", "baseline", "options", "axes", "zipped", "variants", "rules", "budget",
    "budgets", "stop", "search", "published",
)  # fmt: skip
_KEYS_OF_A_BUDGET = ("recipe", "seeds", "baseline", "options", "axes", "variants", "rules", "budget")
_MERGED = ("options", "axes", "rules")
_DATA = ("data.train", "data.valid")
# Options that the sweep sets, and how to choose them.
_OURS = {
    "name": "trials are named by what they vary",
    "runs_dir": "trials lie in the sweep's directory; choose it with --directory",
    "train.seed": "write seeds = [0, 1, 2]",
    "track.group": "trials are grouped under the plan's name",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked plan; :meth:`trials` are its runs."""

    name: str
    question: str
    """The question that the report answers."""
    base: RunConfig
    """The recipe with the plan's [options]."""
    options: dict[str, Any]
    seeds: tuple[int, ...]
    baseline: str | dict[str, Any] | None
    """The setting that others are compared with: a variant's name, or values of options (and a name by "variant")."""
    axes: dict[str, Values]
    zipped: list[dict[str, Values]]
    variants: dict[str, dict[str, Any]]
    rules: dict[str, Formula]
    budget: Budget | None
    stop: Stop | None
    search: Search | None
    chosen: str | None
    """Name of the budget chosen from [budgets]."""
    document: dict[str, Any]
    """The plan as read, with the chosen budget merged in and the baseline by full names."""
    sha256: str
    """SHA-256 of the plan's text."""

    @property
    def default_directory(self) -> Path:
        """The sweep's directory unless another is given."""
        return Path("runs") / (f"{self.name}-{self.chosen}" if self.chosen else self.name)

    @cached_property
    def base_options(self) -> dict[str, Any]:
        """The options of ``base`` by full names."""
        return flatten(self.base)

    def trials(self, directory: Path | None = None) -> list[Trial]:
        """All trials of the plan, in its order; empty for a search, which proposes trials as it goes.

        Args:
            directory: of the sweep; the run directories of the trials lie in it.

        Raises:
            ConfigError: an invalid trial, or two of one name.
        """
        return [] if self.search is not None else expand(self, directory or self.default_directory)


def find_plan(name_or_path: str) -> Path:
    """Find a plan by path, or by the name of a shipped plan.

    Raises:
        FileMissingError: there is none; the nearest name is suggested.
    """
    path = Path(name_or_path)
    if os.path.isfile(path):
        return path
    shipped = {p.stem: p for p in (recipes_dir() / "experiments").glob("*.toml")}
    if name_or_path in shipped:
        return shipped[name_or_path]
    if path.suffix == ".toml" or not shipped:
        raise FileMissingError(f"no plan {path}; expected a TOML file, or one of: {', '.join(sorted(shipped)) or '-'}")
    raise FileMissingError(f"no plan named {name_or_path!r}{suggestion(name_or_path, shipped)}")


def load_plan(name_or_path: str, budget: str | None = None, *, data: Path | None = None) -> Plan:
    """Read a plan.

    Args:
        budget: name of one of its [budgets].
        data: a folder to use in place of ``data/`` in paths of tokens.

    Raises:
        FileMissingError: no such plan or recipe.
        ConfigError: an unknown key, an empty axis or an invalid value; the message names the place.
    """
    path = find_plan(name_or_path)
    document = load_toml(path)
    try:
        if data is not None:
            document = _with_data(document, data)
        plan = read_plan(document, path.parent, hashlib.sha256(path.read_bytes()).hexdigest(), budget)
        return dataclasses.replace(plan, document=plan.document | {"file": name_or_path})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_plan(document: Mapping[str, Any], folder: Path, sha256: str = "", budget: str | None = None) -> Plan:
    """Check a plan given as a dictionary; a recipe's path is relative to the folder."""
    _check_keys(document, _KEYS, "")
    _check_published(_table(document, "published"))
    document = _with_budget(document, budget)
    for key in ("name", "question", "recipe"):
        if not isinstance(document.get(key), str) or not document[key].strip():
            what = {"question": "the sentence that the experiment answers", "name": "the folder of its runs"}
            raise ConfigError(f"{key} = {document.get(key)!r}; expected {what.get(key, 'a recipe, by name or path')}")
    options = _options(_table(document, "options"), "options")
    recipe = _recipe(document["recipe"], folder, options.get("train.init"))
    base = override(recipe, options) if options else recipe
    axes = read_axes(_table(document, "axes"))
    zipped = read_zipped(_tables(document, "zipped"))
    variants = {name: _options(table, f"variants.{name}") for name, table in _named(document, "variants").items()}
    rules = read_rules(by_full_names(_table(document, "rules"), "rules")) if "rules" in document else {}
    plan = Plan(
        name=_folder_name(document["name"]),
        question=document["question"],
        base=base,
        options=options,
        seeds=_seeds(document.get("seeds", 1)),
        baseline=_baseline(document.get("baseline"), variants),
        axes=axes,
        zipped=zipped,
        variants=variants,
        rules=rules,
        budget=from_dict(Budget, _table(document, "budget"), place="budget") if "budget" in document else None,
        stop=read_stop(_table(document, "stop")) if "stop" in document else None,
        search=read_search(_table(document, "search")) if "search" in document else None,
        chosen=budget,
        document={},
        sha256=sha256,
    )
    _check_owners(plan)
    canonical = dict(document) | ({"baseline": plan.baseline} if plan.baseline is not None else {})
    return dataclasses.replace(plan, document=canonical)


def _with_budget(document: Mapping[str, Any], chosen: str | None) -> dict[str, Any]:
    """The plan with one of its [budgets] merged in."""
    # All of them are merged, so that a mistake in any is found now.
    budgets = {name: _merged(document, name, table) for name, table in _named(document, "budgets").items()}
    if chosen is None:
        return {key: value for key, value in document.items() if key != "budgets"}
    if not budgets:
        raise ConfigError(f"--budget {chosen}, but the plan has no [budgets]; leave it out")
    if chosen not in budgets:
        raise ConfigError(f"unknown budget {chosen!r}{suggestion(chosen, budgets)}")
    return budgets[chosen]


def _merged(document: Mapping[str, Any], budget: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """The plan with the values of a budget over its own."""
    place = f"budgets.{budget}"
    _check_keys(table, _KEYS_OF_A_BUDGET, place)
    whole = {key: value for key, value in document.items() if key != "budgets"}
    for key, value in table.items():
        if key == "variants":
            whole[key] = _with_variants(_named(document, key), _table(table, key, place), f"{place}.{key}")
        elif key in _MERGED:
            after = by_full_names(_table(table, key, place), f"{place}.{key}")
            whole[key] = by_full_names(_table(document, key), key) | after
        else:
            whole[key] = value
    return whole


def _with_variants(
    before: dict[str, dict[str, Any]], after: Mapping[str, Any], place: str
) -> dict[str, dict[str, Any]]:
    """The plan's variants with the budget's options over them, then those that only the budget has."""
    merged = dict(before)
    for name in after:
        own = by_full_names(_table(after, name, place), f"{place}.{name}")
        merged[name] = by_full_names(before.get(name, {}), f"variants.{name}") | own
    return merged


def _with_data(document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The plan with its token paths below ``data/`` moved to another folder."""

    def moved(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {inner: moved(inner, one) for inner, one in value.items()}
        inside = key in _DATA and isinstance(value, str) and value.startswith("data/")
        return str(folder / value.removeprefix("data/")) if inside else value

    return {key: moved(key, value) for key, value in document.items()}


def _check_published(table: Mapping[str, Any]) -> None:
    """Check published figures: their source, and for each setting a loss or a word such as "NaN"."""
    if not table:
        return
    _check_keys(table, ("source", "losses"), "published")
    if not isinstance(table.get("source"), str):
        raise ConfigError(f"published.source = {table.get('source')!r}; expected a sentence that names their source")
    for name, loss in _table(table, "losses", "published").items():
        if isinstance(loss, bool) or not isinstance(loss, float | int | str):
            raise ConfigError(f"published.losses.{name} = {loss!r}; expected a number, or a word in quotes")


def _recipe(name: str, folder: Path, init: str | None) -> RunConfig:
    beside = folder / name
    given = {} if init is None else {"train.init": init}
    return inheriting_recipe(str(beside if os.path.isfile(beside) else name), given)


def _options(table: Any, place: str) -> dict[str, Any]:
    """A table of options by their full names."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{place} = {table!r}; expected a table of options, [{place}]")
    known = default_options()
    return {name: plain(value, known[name]) for name, value in by_full_names(table, place).items()}


def _seeds(written: Any) -> tuple[int, ...]:
    if type(written) is int and written >= 1:
        return tuple(range(written))
    if isinstance(written, list) and written and all(type(seed) is int and seed >= 0 for seed in written):
        if len(set(written)) == len(written):
            return tuple(written)
        raise ConfigError(f"seeds = {written!r} has a seed twice; each seed is a separate trial")
    raise ConfigError(f"seeds = {written!r}; expected how many (from 0), or a list of seeds, 0 or greater")


def _baseline(written: Any, variants: Iterable[str]) -> str | dict[str, Any] | None:
    if isinstance(written, str):
        if written not in variants:
            raise ConfigError(f"baseline = {written!r} is not a variant{suggestion(written, variants)}")
        return written
    if not isinstance(written, Mapping):
        return None if written is None else _options(written, "baseline")
    options = {name: value for name, value in written.items() if name != "variant"}
    variant = {"variant": _baseline(written["variant"], variants)} if "variant" in written else {}
    return _options(options, "baseline") | variant


def _check_owners(plan: Plan) -> None:
    """Refuse options that are set in two places; only a variant may override a rule."""
    owners: dict[str, str] = {}

    def claim(options: Iterable[str], owner: str) -> None:
        for option in options:
            if option in _OURS:
                raise ConfigError(f"{owner} {option} cannot be set by a plan: {_OURS[option]}")
            if option in owners:
                raise ConfigError(f"{option} is set by {owners[option]} and by {owner}; leave one of them out")
            owners[option] = owner

    claim(plan.axes, "[axes]")
    for table in plan.zipped:
        claim(table, "[[zipped]]")
    claim(plan.rules, "[rules]")
    if plan.search is not None:
        claim(plan.search.space, "[search.space]")
        if plan.axes or plan.zipped or plan.variants:
            raise ConfigError("[search] chooses the settings itself; leave out [axes], [[zipped]] and [variants]")
        if plan.stop is not None:
            raise ConfigError("[search] and [stop] cannot be combined; leave one of them out")
    if plan.budget is not None:
        claim([plan.budget.sets], "[budget]")
    if plan.stop is not None and plan.budget is not None and plan.budget.fixed == "minutes":
        raise ConfigError("[stop] compares trials at equal shares of their steps; fix steps, tokens or FLOPs instead")
    for place, table in {"[options]": plan.options, **{f"[variants.{n}]": t for n, t in plan.variants.items()}}.items():
        claim([option for option in table if option in _OURS], place)
    for name, table in plan.variants.items():
        for option in table:
            if option in owners and option not in plan.rules:
                both = f"{owners[option]} and by [variants.{name}]"
                raise ConfigError(f"{option} is set by {both}; leave one of them out")


def _folder_name(name: str) -> str:
    RunConfig(name=name)  # raises ConfigError with the reason
    return name


def _check_keys(table: Any, known: Iterable[str], place: str) -> None:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{place} = {table!r}; expected a table, [{place}]")
    for key in table:
        if key not in known:
            raise ConfigError(f"unknown key {f'{place}.' if place else ''}{key}{suggestion(key, known)}")


def _table(document: Mapping[str, Any], key: str, place: str = "") -> dict[str, Any]:
    table = document.get(key, {})
    if not isinstance(table, Mapping):
        name = f"{place}.{key}" if place else key
        raise ConfigError(f"{name} = {table!r}; expected a table, [{name}]")
    return dict(table)


def _named(document: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    return {name: _table(_table(document, key), name, key) for name in _table(document, key)}


def _tables(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    tables = document.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        raise ConfigError(f"{key} = {tables!r}; expected tables, [[{key}]]")
    return [dict(table) for table in tables]
