"""The preset "lr" of `groundup sweep`: the best learning rate for a recipe and its data, by short runs.

The search has rounds, each a plan in the same directory. A geometric grid around the recipe's learning rate, with one
seed, finds where the loss is lowest; while that is at an end of the grid, the grid grows there. Then the learning rates
around the best run with more seeds, and a parabola in the logarithm of the learning rate gives the best one with an
interval. Each round follows from the results before it, so the same command continues an interrupted search.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from groundup.config import RunConfig, override
from groundup.config.recipe import find_recipe
from groundup.display.units import value_text
from groundup.errors import ConfigError, FileMissingError
from groundup.record.parent import inheriting_recipe
from groundup.record.sweep import SweepDirectory, TrialResult
from groundup.sweeps.executors.executor import Executor
from groundup.sweeps.plan import Plan, read_plan
from groundup.sweeps.sweep import SweepResult, Watch, run_sweep

RATE = "optim.max_learning_rate"
SEEDS = 3
DEFAULT_MINUTES = 5.0
STEP = 3.0
"""Factor between the learning rates of the first grid. Around the best one they are half as far apart, on a logarithmic
scale; places on the grid are counted in such halves."""
_FIRST = (-4, -2, 0, 2, 4)
_AROUND = (-2, -1, 0, 1, 2)
_MOST_WIDENINGS = 4
_MOST_SHIFTS = 2
_RUNS = len(_FIRST) + len(_AROUND) * SEEDS - 3
"""Runs of a search whose grid needs not grow."""
_LEAST_STEPS = 20
_SECONDS_BESIDE_A_RUN = 0.5
_EVALUATIONS = 2
_MOST_WINDOWS = 640
_WEIGHT_OF_THE_ENDS = 0.25
"""Of the outer learning rates in the fit: further from the minimum, a loss is no parabola."""
_DRAWS = 4000
_LEVEL = 0.95
_RECIPE_FOR_DATA = "demo"


@dataclass(frozen=True)
class Best:
    """The best learning rate, and the interval that it lies in."""

    rate: float
    low: float
    high: float
    loss: float
    """Mean validation loss at the best learning rate that was tried."""
    tried: float
    """That learning rate."""
    minimum: float
    """The learning rate of the last step that goes with the best one."""
    edge: str
    """"lowest" or "highest" if the best learning rate is at that end of those that were tried; otherwise empty."""
    flat: bool
    """Whether the losses show no minimum: the interval is all that was tried around the best."""


class Preset:
    """The rounds of a search.

    Args:
        target: a recipe, its name or file; or a folder with the token shards ``train`` and ``valid``.
        minutes: for all runs together; a search that continues keeps its steps.
        directory: of the sweep; by default runs/lr- and the recipe's name.
        measure: seconds of a training step of a config.

    Raises:
        ConfigError, FileMissingError: no such recipe or data, or too little time.
    """

    def __init__(
        self,
        target: str,
        minutes: float | None = None,
        directory: Path | None = None,
        measure: Callable[[RunConfig], float] | None = None,
    ):
        minutes = DEFAULT_MINUTES if minutes is None else minutes
        if not 0 < minutes < math.inf:
            raise ConfigError(f"--minutes {minutes:g}; expected a positive number")
        self.target, self.data = target, _data_of(target)
        self.recipe = _RECIPE_FOR_DATA if self.data else target
        name = Path(target).resolve().name if self.data else find_recipe(target).stem
        self.base = override(inheriting_recipe(self.recipe), self.data)
        optim, data = self.base.optim, self.base.data
        if not data.valid:
            raise ConfigError(f"{target}: data.valid is empty; learning rates are compared by their validation loss")
        if not optim.max_learning_rate:
            raise ConfigError(f"{target}: optim.max_learning_rate = 0; expected a learning rate to begin with")
        self.centre, self._share = optim.max_learning_rate, optim.min_learning_rate / optim.max_learning_rate
        self._windows = min(self.base.train.eval_windows or _MOST_WINDOWS, _MOST_WINDOWS)
        self.name = f"lr-{name}"
        self.directory = directory or Path("runs") / self.name
        before = SweepDirectory(self.directory).document()
        self.continues = before is not None
        if before is None:
            seconds = (measure or _seconds_per_step)(self.base)
            self.steps = self._steps(minutes, seconds)
        elif before.plan.get("preset") == "lr":
            self.steps = int(before.plan["budget"]["amount"])
        else:
            raise ConfigError(f"{self.directory} holds another sweep; choose another --directory")

    @property
    def first(self) -> Plan:
        """The plan of the first round."""
        return self.plan(_FIRST, [0])

    def plan(self, places: Sequence[int], seeds: Sequence[int]) -> Plan:
        """The plan of a round."""
        options = {
            "train.eval_interval": self.steps, "train.eval_windows": self._windows, "train.stop_at": 0,
            "train.max_minutes": 0.0, "train.finish_schedule": False, "train.ratio_interval": 0, "optim.stage_from": 0,
            "sample.interval": 0, "track.tensorboard": False, "track.wandb": False, **self.data,
        }  # fmt: skip
        document = {
            "name": self.name,
            "question": f"Which peak learning rate is best for runs of {self.steps:,} steps?",
            "recipe": self.recipe,
            "seeds": list(seeds),
            "options": options,
            "axes": {RATE: [self.rate(place) for place in places]},
            "rules": {"optim.min_learning_rate": f"max_learning_rate * {self._share!r}"},
            "budget": {"fixed": "steps", "amount": self.steps},
        }
        plan = read_plan(document, Path())
        return dataclasses.replace(plan, document=plan.document | {"preset": "lr", "file": self.target})

    def rate(self, place: int) -> float:
        """The learning rate at a place of the grid, which for the recipe's is 0."""
        return self.centre if place == 0 else float(f"{self.centre * STEP ** (place / 2):.3g}")

    def _steps(self, minutes: float, seconds: float) -> int:
        """Steps of each run, so that all runs take about these minutes; no more than the recipe's.

        Raises:
            ConfigError: too few to learn anything.
        """
        # A forward pass is a third of a step.
        evaluation = self._windows / (3 * self.base.data.batch_size) * seconds
        beside = _EVALUATIONS * evaluation + _SECONDS_BESIDE_A_RUN
        steps, most = int((60 * minutes / _RUNS - beside) / seconds), self.base.train.max_iters
        if steps < min(_LEAST_STEPS, most):
            needed = math.ceil(10 * _RUNS * (_LEAST_STEPS * seconds + beside) / 60) / 10
            raise ConfigError(
                f"--minutes {minutes:g}: a step takes {seconds:.2g} s here, which leaves {max(0, steps)} steps for "
                f"each of {_RUNS} runs; give --minutes {needed:g} or more, or a smaller model"
            )
        return min(steps, most)

    def run(
        self, make_executor: Callable[[Plan], Executor], *, retries: int, watch: Watch
    ) -> tuple[SweepResult, Best | None]:
        """Run the rounds.

        Returns:
            The results of all rounds, and the best learning rate; None if the search was interrupted, a trial crashed,
            or all diverged.
        """
        found: dict[str, TrialResult] = {}

        def round_of(places: Sequence[int], seeds: Sequence[int]) -> SweepResult:
            plan = self.plan(places, seeds)
            result = run_sweep(plan, make_executor(plan), directory=self.directory, retries=retries, watch=watch)
            found.update(result.results)
            in_order = sorted(found.items(), key=lambda pair: (pair[1].varied[RATE], pair[1].seed))
            return dataclasses.replace(result, results=dict(in_order))

        losses = _Losses(self, found)
        places, seeds = list(_FIRST), [0]
        result = round_of(places, seeds)
        for widening in range(_MOST_WIDENINGS):
            best = losses.best(places, seeds)
            end = min(places) if best is None else best
            if not result.complete or end not in (min(places), max(places)):
                break
            step = -2 if end == min(places) else 2
            watch.note(
                f"widening {widening + 1}: the loss is lowest at {value_text(self.rate(end))}, an end of the grid"
            )
            places.append(end + step)
            result = round_of([end + step], seeds)
        best = losses.best(places, seeds)
        if not result.complete or best is None:
            return result, None
        seeds, around = list(range(SEEDS)), [best + place for place in _AROUND]
        result = round_of(around, seeds)
        for _ in range(_MOST_SHIFTS):
            now = losses.best(around, seeds)
            if not result.complete or now not in (min(around), max(around)):
                break
            step = -1 if now == min(around) else 1
            more = [now + step, now + 2 * step]
            around = sorted({*around, *more})
            result = round_of(more, seeds)
        best = losses.best(around, seeds)
        if not result.complete or best is None:
            return result, None
        around = [place for place in around if abs(place - best) <= 2]
        return result, self._fit(losses, around, best, seeds)

    def _fit(self, losses: _Losses, around: Sequence[int], best: int, seeds: Sequence[int]) -> Best:
        tried = {place: losses.of(place, seeds) for place in around}
        stable = {place: values for place, values in tried.items() if values is not None}
        vertex, low, high, flat = parabola(stable, best)
        ends = min(stable), max(stable)
        # Beyond one that diverged there is nothing better to find.
        edge = ""
        if best == ends[0] and best - 1 not in tried:
            edge = "lowest"
        if best == ends[1] and best + 1 not in tried:
            edge = "highest"
        rates = [self.centre * STEP ** (place / 2) for place in (vertex, low, high)]
        rate, least, most = (float(f"{value:.2g}") for value in rates)
        mean = statistics.fmean(stable[best])
        minimum = float(f"{self._share * rate:.2g}")
        return Best(rate, min(rate, least), max(rate, most), mean, self.rate(best), minimum, edge, flat)


class _Losses:
    """Validation losses by place and seed."""

    def __init__(self, preset: Preset, results: Mapping[str, TrialResult]):
        self._preset, self._results = preset, results

    def of(self, place: int, seeds: Sequence[int]) -> list[float] | None:
        """The losses of a learning rate with these seeds; None if one of them has none, since it diverged."""
        rate = self._preset.rate(place)
        by_seed = {
            result.seed: result.val_loss
            for result in self._results.values()
            if result.varied.get(RATE) == rate and result.status == "finished"
        }
        values = [by_seed.get(seed) for seed in seeds]
        return None if None in values else [value for value in values if value is not None]

    def best(self, places: Sequence[int], seeds: Sequence[int]) -> int | None:
        """The place of the lowest mean; None if all diverged."""
        means = {place: statistics.fmean(values) for place in places if (values := self.of(place, seeds)) is not None}
        return min(means, key=lambda place: means[place]) if means else None


def parabola(losses: Mapping[int, Sequence[float]], best: int) -> tuple[float, float, float, bool]:
    """The minimum of a parabola through losses by place, with its 95 % interval, and whether there is none.

    The seeds have separate heights, since runs of one seed share its noise. The interval is that of the vertex under
    the distribution of the coefficients, as far as the places reach.

    Args:
        losses: by place, one for each seed.
        best: the place of the lowest mean.
    """
    places = sorted(losses)
    seeds = len(losses[best])
    low, high = float(places[0]), float(places[-1])
    rows, values, weights = [], [], []
    for place in places:
        for seed, loss in enumerate(losses[place]):
            x = float(place - best)
            rows.append([*(float(seed == other) for other in range(seeds)), x, x * x])
            values.append(loss)
            weights.append(1.0 if abs(x) <= 1 else _WEIGHT_OF_THE_ENDS)
    freedom = len(rows) - seeds - 2
    if len(places) < 3 or freedom < 1:
        return float(best), low, high, True
    root = np.sqrt(weights)
    design, target = np.array(rows) * root[:, None], np.array(values) * root
    coefficients = np.linalg.lstsq(design, target, rcond=None)[0]
    variance = float(np.sum((target - design @ coefficients) ** 2)) / freedom
    covariance = variance * np.linalg.inv(design.T @ design)[-2:, -2:]
    slope, bend = coefficients[-2:]
    flat = bool(bend <= 0)
    vertex = float(best) if flat else float(np.clip(best - slope / (2 * bend), max(low, best - 1), min(high, best + 1)))
    rng = np.random.default_rng(0)
    spread = rng.multivariate_normal(np.zeros(2), covariance, _DRAWS)
    spread *= np.sqrt(freedom / rng.chisquare(freedom, _DRAWS))[:, None]
    slopes, bends = slope + spread[:, 0], bend + spread[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        vertices = np.where(bends > 0, best - slopes / (2 * bends), np.where(slopes > 0, low, high))
    ends = np.quantile(np.clip(vertices, low, high), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return vertex, min(vertex, float(ends[0])), max(vertex, float(ends[1])), flat


def _data_of(target: str) -> dict[str, str]:
    """Options of a folder with the shards ``train`` and ``valid``; none for a recipe."""
    folder = Path(target)
    if not folder.is_dir():
        return {}
    for split in ("train", "valid"):
        if not (folder / split / "index.json").is_file():
            raise FileMissingError(
                f"{folder} has no token shards {split}; expected a recipe, or a folder with train and valid as "
                "`groundup encode` writes them"
            )
    return {f"data.{split}": str(folder / split) for split in ("train", "valid")}


def _seconds_per_step(config: RunConfig) -> float:
    from groundup.train.preview.dry_run import seconds_per_step

    return seconds_per_step(config)
