"""Search: Optuna proposes settings, each is trained with every seed, and the mean loss is its objective.

Whenever a sweep begins, the study is rebuilt from the results, and each batch of proposals has a separate random
generator. Proposals therefore depend on the plan and the earlier results only: an interrupted search continues exactly,
with any number of workers and on any machine.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from groundup.config import by_full_names, from_dict
from groundup.config.names import default_options
from groundup.config.recipe import suggestion
from groundup.errors import ConfigError, MissingExtraError
from groundup.record.sweep import TrialResult
from groundup.sweeps.axes import ends, plain
from groundup.sweeps.trials import Trial, trials_of

if TYPE_CHECKING:
    from groundup.sweeps.plan import Plan


@dataclass(frozen=True)
class Choices:
    """A categorical option."""

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
    """How the space is searched."""

    trials: int = 20
    """How many settings are tried, each with every seed."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Tree-structured Parzen estimator (Bergstra et al. 2011), or uniform random search."""
    at_once: int = 4
    """Settings proposed together, before the results of any of them. Changes the result; the number of workers does
    not."""
    seed: int = 0
    """Seed of the sampler."""
    measure: Literal["val_loss", "best_val_loss", "val_bpb"] = "val_loss"
    """The objective, minimized: its mean over seeds."""

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
    """Read ``[search]``.

    Raises:
        ConfigError: an unknown key or option, an empty space, or an invalid range.
    """
    options = {key: value for key, value in table.items() if key != "space"}
    space = table.get("space")
    if not isinstance(space, Mapping) or not space:
        raise ConfigError("search.space is empty; name the options to choose, such as max_learning_rate = {log = …}")
    named = by_full_names(space, "search.space")
    read = {name: _dimension(name, written) for name, written in named.items()}
    return Search(from_dict(SearchOptions, options, place="search"), read)


def _dimension(name: str, written: Any) -> Choices | Range:
    place, now = f"search.space.{name}", default_options()[name]
    if isinstance(written, list):
        if len(written) < 2:
            raise ConfigError(f"{place} = {written!r}; expected at least two values, or put it under [options]")
        return Choices(tuple(plain(value, now) for value in written))
    if not isinstance(written, Mapping) or len(written) != 1:
        raise ConfigError(f"{place} = {written!r}; expected a list, {{log = [low, high]}} or {{linear = [low, high]}}")
    ((kind, limits),) = written.items()
    if kind not in ("log", "linear"):
        raise ConfigError(f"unknown key {place}.{kind}{suggestion(kind, ('log', 'linear'))}")
    if isinstance(now, bool) or not isinstance(now, int | float | None):
        raise ConfigError(f"{place}: its values are like {now!r}; expected a list of them")
    low, high = ends(limits, f"{place}.{kind}", positive=kind == "log")
    whole = isinstance(now, int)
    if whole and (low != int(low) or high != int(high)):
        raise ConfigError(f"{place}.{kind} = {limits!r}; expected whole numbers")
    return Range(low, high, log=kind == "log", whole=whole)


def proposals(
    plan: Plan, directory: Path, results: Mapping[str, TrialResult], note: Callable[[str], None]
) -> Iterator[list[Trial]]:
    """Yield batches of trials. The results must hold a batch before the next one is requested.

    Args:
        note: called with the reason for each proposal that is not a valid run.

    Raises:
        MissingExtraError: the package optuna is not installed.
    """
    assert plan.search is not None
    options, space = plan.search.options, plan.search.space
    optuna = _optuna()
    study = optuna.create_study()
    distributions = {name: _distribution(optuna, dimension) for name, dimension in space.items()}
    for first in range(0, options.trials, options.at_once):
        study.sampler = _sampler(optuna, options, first)
        asked: list[tuple[Any, list[Trial]]] = []
        for number in range(first, min(first + options.at_once, options.trials)):
            proposal = study.ask(distributions)
            width = len(str(options.trials - 1))
            trials: list[Trial] = []
            try:
                trials = trials_of(plan, directory, _readable(proposal.params, space), label=f"trial-{number:0{width}}")
            except ConfigError as error:
                note(str(error))
            asked.append((proposal, trials))
        yield [trial for _, trials in asked for trial in trials]
        for proposal, trials in asked:
            value = measured(trials, results, options.measure)
            if value is None:
                study.tell(proposal, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(proposal, value)


def measured(trials: Sequence[Trial], results: Mapping[str, TrialResult], measure: str) -> float | None:
    """Mean of the measure over the seeds: infinite if one has diverged, None if one has no result."""
    found = [results.get(trial.name) for trial in trials]
    if any(result is not None and result.status == "diverged" for result in found):
        return math.inf
    values = [getattr(result, measure) for result in found if result is not None and result.status == "finished"]
    if not values or len(values) < len(trials) or None in values:
        return None
    return statistics.fmean(values)


def _readable(params: Mapping[str, Any], space: Mapping[str, Choices | Range]) -> dict[str, Any]:
    """Round values to four digits, so that the run's name shows exactly what is trained."""
    return {
        name: float(f"{params[name]:.4g}") if isinstance(params[name], float) and isinstance(space[name], Range)
        else params[name]
        for name in space
    }  # fmt: skip


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingExtraError.for_package("optuna", "search", "[search] in a plan") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _distribution(optuna: Any, dimension: Choices | Range) -> Any:
    if isinstance(dimension, Choices):
        return optuna.distributions.CategoricalDistribution(dimension.values)
    if dimension.whole:
        return optuna.distributions.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _sampler(optuna: Any, options: SearchOptions, batch: int) -> Any:
    seed = (options.seed * 1_000_003 + batch) % 2**32
    if options.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings(), contextlib.suppress(AttributeError):
        warnings.simplefilter("ignore")  # constant_liar, which spreads out a batch, is marked experimental
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=max(5, options.at_once))
