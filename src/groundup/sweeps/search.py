"""Search: Optuna proposes points of a space, each becomes a cell for every seed, and their mean loss is its answer.

The study is rebuilt from the results whenever a sweep begins, and every batch of proposals draws from a generator of
its own. What is proposed is then a function of the plan and of the results before it: interrupted and resumed, the
search goes the same way, however many cells run at once and wherever.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from groundup.errors import ConfigError, MissingExtraError
from groundup.sweeps.plan import Plan
from groundup.sweeps.results import Result
from groundup.sweeps.search_space import Choices, Range, SearchOptions
from groundup.sweeps.trials import Cell, cells_of


def trials(
    plan: Plan, directory: Path, results: Mapping[str, Result], note: Callable[[str], None]
) -> Iterator[list[Cell]]:
    """Batches of cells. When the next one is asked for, the results must hold the one before.

    Args:
        note: told of points that are no possible run.

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
        asked: list[tuple[Any, list[Cell]]] = []
        for number in range(first, min(first + options.at_once, options.trials)):
            trial = study.ask(distributions)
            width = len(str(options.trials - 1))
            cells: list[Cell] = []
            try:
                cells = cells_of(plan, directory, _readable(trial.params, space), label=f"trial-{number:0{width}}")
            except ConfigError as error:
                note(str(error))
            asked.append((trial, cells))
        yield [cell for _, cells in asked for cell in cells]
        for trial, cells in asked:
            value = measured(cells, results, options.measure)
            if value is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, value)


def measured(cells: Sequence[Cell], results: Mapping[str, Result], measure: str) -> float | None:
    """Mean of the measure over the seeds: infinite if one has diverged, None if one has no answer."""
    found = [results.get(cell.name) for cell in cells]
    if any(result is not None and result.status == "diverged" for result in found):
        return math.inf
    values = [getattr(result, measure) for result in found if result is not None and result.status == "finished"]
    if not values or len(values) < len(cells) or None in values:
        return None
    return statistics.fmean(values)


def _readable(params: Mapping[str, Any], space: Mapping[str, Choices | Range]) -> dict[str, Any]:
    """Values with four digits: what a name shows is what was trained."""
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
        warnings.simplefilter("ignore")  # the constant liar keeps the points of a batch apart, and is "experimental"
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=max(5, options.at_once))
