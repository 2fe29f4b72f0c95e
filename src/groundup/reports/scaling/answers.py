"""Answers of a scaling law: how large a model, how many tokens and what loss, for a budget of FLOPs or minutes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from groundup.account.fit import scaled
from groundup.account.flops import training_flops_per_token
from groundup.account.params import parameter_count
from groundup.config import ModelConfig, RunConfig, from_dict
from groundup.errors import ConfigError, DataError
from groundup.record.read import Run
from groundup.reports.scaling.law import Floats, Law, interval
from groundup.reports.scaling.points import Points
from groundup.sweeps.trials import nested

FAR = 10
"""An answer this many times beyond the largest run is marked."""
_POINTS = 240
_BUDGETS = 40
_BEYOND = 1e4
"""How far beyond the runs' sizes and tokens the optimum is looked for."""
_SHAPES = 40


class Range(NamedTuple):
    """A value with its 95 % interval; the ends are the value's where it was given."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Answer:
    """How large, how long, what loss."""

    asked: str
    parameters: Range
    tokens: Range
    loss: Range
    flops: float
    """Training FLOPs of a model of this size for these tokens."""
    minutes: float | None
    """Training time on the device of the runs; None if their speed is unknown."""
    shape: dict[str, int] | None
    """The model of the largest run's family that is nearest in size."""
    beyond: float
    """How many times more FLOPs than the largest run."""
    at_edge: bool = False
    """Whether the optimum lies further from the runs than was looked for."""


@dataclass(frozen=True)
class Cost:
    """Cost of a token by the number of parameters, interpolated between known models on logarithmic scales."""

    parameters: Floats
    per_token: Floats
    source: str

    def __call__(self, parameters: Floats) -> Floats:
        logs, costs = np.log(self.parameters), np.log(self.per_token)
        at = np.log(parameters)
        inside = np.interp(at, logs, costs)
        # Beyond the known models the cost is proportional to the size.
        return np.exp(inside + at - np.clip(at, logs[0], logs[-1]))


class Family:
    """Models with the proportions of the largest run's, by size."""

    def __init__(self, runs: Sequence[Run]):
        largest = max(runs, key=lambda run: run.figures.get("parameters") or 0.0)
        self.models: list[ModelConfig] = []
        model = model_of(largest)
        if model is not None:
            heads = sorted({round(value) for value in np.geomspace(1, 40 * model.kv_heads, _SHAPES)})
            for count in heads:
                try:
                    self.models.append(scaled(model, count))
                except ConfigError:  # of odd head sizes, some widths are no model
                    continue
        self.sizes = np.array([float(parameter_count(one)) for one in self.models])

    def nearest(self, parameters: float) -> dict[str, int] | None:
        """The shape of the model whose size is nearest; None beyond the family's ends."""
        if not len(self.sizes) or not self.sizes[0] / 2 < parameters < self.sizes[-1] * 2:
            return None
        place = int(np.argmin(np.abs(np.log(self.sizes / parameters))))
        model = self.models[place]
        names = ("d_model", "num_layers", "num_heads")
        return {name: getattr(model, name) for name in names} | {"parameters": int(self.sizes[place])}

    def flops(self) -> Cost:
        """FLOPs of a token: counted from the modules of the family, or 6 N where its shape is unknown."""
        if not self.models:
            return Cost(np.array([1.0]), np.array([6.0]), "6 N a token: the runs do not record their models")
        counted = np.array([training_flops_per_token(one) for one in self.models])
        return Cost(self.sizes, counted, "counted from the modules of models with the proportions of the largest run")


def model_of(run: Run) -> ModelConfig | None:
    """The model of a run; None if another version wrote options that this one does not know."""
    try:
        model = from_dict(RunConfig, nested(run.options)).model
    except ConfigError:
        return None
    return model if model.vocab_size else None


def seconds_per_token(points: Points, flops: Cost) -> Cost:
    """Seconds of a token: measured by the runs, or where they have no speed, estimated for this machine.

    Raises:
        ConfigError: the runs were on different devices.
    """
    timed = [run for run in points.runs if run.figures.get("tokens_per_second")]
    if not timed:
        return _estimated(points, flops)
    first = timed[0]
    for run in timed[1:]:
        ours, theirs = first.environment.get("device_name"), run.environment.get("device_name")
        if ours != theirs:
            raise ConfigError(
                f"--minutes: {first.path} ran on {ours} and {run.path} on {theirs}; name runs of one device, or give "
                "--flops"
            )
    by_size: dict[float, list[float]] = {}
    for run in timed:
        by_size.setdefault(run.figures["parameters"] or 1.0, []).append(run.figures["tokens_per_second"] or 1.0)
    sizes = np.array(sorted(by_size))
    speeds = np.array([np.median(by_size[size]) for size in sizes])
    device = first.environment.get("device_name") or "their device"
    # Beyond the sizes that ran, the FLOP/s of the nearest one.
    reached = speeds * flops(sizes)
    wide = np.geomspace(sizes[0] / _BEYOND, sizes[-1] * _BEYOND, _POINTS)
    per_token = flops(wide) / np.exp(np.interp(np.log(wide), np.log(sizes), np.log(reached)))
    return Cost(wide, per_token, f"tokens/s as the runs measured them on {device}, without evaluations")


def _estimated(points: Points, flops: Cost) -> Cost:
    from groundup.account.account import share_of_peak
    from groundup.sweeps.cost import this_device

    run = max(points.runs, key=lambda run: run.figures.get("parameters") or 0.0)
    try:
        config = from_dict(RunConfig, nested(run.options))
    except ConfigError as error:
        raise ConfigError(f"--minutes: {run.path} did not measure its speed, and {error}; give --flops") from None
    device = this_device(config)
    if not device.flops:
        raise ConfigError(
            f"--minutes: no run has measured its speed, and the peak of {device.name} is unknown; give --flops"
        )
    reached = device.flops * share_of_peak(config, device)
    told = f"no run has measured its speed: `groundup account`'s estimate for {device.name}"
    return dataclasses.replace(flops, per_token=flops.per_token / reached, source=told)


class Oracle:
    """Answers questions about a law.

    Args:
        law: fitted to the points.
        points: runs, sizes and tokens.
        speed: seconds of a token, where times are wanted.
    """

    def __init__(self, law: Law, points: Points, family: Family, speed: Cost | None = None):
        self.law, self.family, self.speed, self.flops = law, family, speed, family.flops()
        sizes, tokens = points.column("parameters"), points.column("tokens")
        self._size, self._tokens = (float(sizes[0]) if "N" not in law.terms else None), tokens
        self._sizes = np.geomspace(sizes.min() / _BEYOND, sizes.max() * _BEYOND, 2 * _POINTS)
        self.largest = max(float(run.figures.get("flops") or 0.0) for run in points.runs)
        self.largest = self.largest or float((self.flops(sizes) * tokens).max())

    def answer(
        self,
        asked: str,
        *,
        flops: float | None = None,
        minutes: float | None = None,
        tokens: float | None = None,
        parameters: float | None = None,
    ) -> Answer:
        """The loss and what is not given; without a budget, the budget for which what is given is best.

        Raises:
            ConfigError: more is given than can be chosen, or the law does not know what is asked.
            DataError: the loss does not fall with size or tokens.
        """
        if flops is not None and minutes is not None:
            raise ConfigError("--flops and --minutes are both budgets; give one of them")
        budget = flops if flops is not None else None if minutes is None else 60 * minutes
        cost = self.flops if minutes is None else self.speed
        assert cost is not None
        if self._size is not None:
            self._check_fixed("--parameters", parameters, self._size, "size")
            parameters = self._size
        if "D" not in self.law.terms:
            self._check_fixed("--tokens", tokens, float(self._tokens[0]), "number of tokens")
            tokens = float(self._tokens[0])
        if budget is not None and tokens is not None and parameters is not None:
            raise ConfigError("a budget, a size and a number of tokens leave nothing to choose; leave one of them out")
        fits, edge = len(self.law.e), False
        if parameters is not None and tokens is not None:
            n, d = np.full(fits, float(parameters)), np.full(fits, float(tokens))
        elif budget is not None and parameters is not None:
            n, d = np.full(fits, float(parameters)), np.full(fits, budget / cost(np.array([parameters]))[0])
        elif budget is not None and tokens is not None:
            n = np.full(fits, self._size_for(cost, budget / tokens))
            d = np.full(fits, float(tokens))
        elif budget is not None:
            self._check_falls()
            n, d, edge = self._best(cost, budget)
        elif len(self.law.terms) < 2:
            what = "tokens" if self._size is not None else "parameters"
            raise ConfigError(f"the runs vary in their {what} only; give a budget, or --{what}")
        else:
            self._check_falls()
            n, d = self._balanced(parameters, tokens)
        loss = self.law.loss(**{term: {"N": n, "D": d}[term][:, None] for term in self.law.terms})[:, 0]
        size, length = Range(*interval(n)), Range(*interval(d))
        total = float(self.flops(np.array([size.value]))[0] * length.value)
        seconds = None if self.speed is None else float(self.speed(np.array([size.value]))[0] * length.value)
        return Answer(
            asked, size, length, Range(*interval(loss)), total, None if seconds is None else seconds / 60,
            self.family.nearest(size.value), total / self.largest, edge,
        )  # fmt: skip

    @property
    def falls(self) -> bool:
        """Whether there is a best size for a budget: the loss falls with size, and with tokens."""
        return "D" in self.law.terms and bool(np.all(self.law.exponents[0] > 0))

    def _check_falls(self) -> None:
        for k, term in enumerate(self.law.terms):
            if (exponent := float(self.law.exponents[0, k])) <= 0:
                what = "larger models (alpha" if term == "N" else "more tokens (beta"
                raise DataError(
                    f"the loss of these runs does not fall with {what} = {exponent:.2g}), so no size is best; train "
                    "longer, and choose sizes and lengths further apart"
                )

    def _check_fixed(self, flag: str, given: float | None, known: float, what: str) -> None:
        if given is not None and not np.isclose(given, known, rtol=0.02):
            raise ConfigError(f"{flag} {given:g}, but all runs have one {what}, {known:,.0f}; name runs of 3 or more")

    def _size_for(self, cost: Cost, per_token: float) -> float:
        """The size whose token costs this much."""
        costs = cost(self._sizes)
        if not costs[0] <= per_token <= costs[-1]:
            raise ConfigError("the budget and --tokens leave no model of a size near the runs'; give other numbers")
        return float(np.exp(np.interp(np.log(per_token), np.log(costs), np.log(self._sizes))))

    def _best(self, cost: Cost, budget: float) -> tuple[Floats, Floats, bool]:
        """Sizes and tokens of least loss for a budget, by fit; and whether those of the first are beyond the grid."""
        grid = np.log(self._sizes)
        tokens = budget / cost(self._sizes)
        losses = self.law.loss(N=self._sizes[None], D=tokens[None])
        place = np.clip(losses.argmin(axis=1), 1, len(grid) - 2)
        rows = np.arange(len(losses))
        before, here, after = (losses[rows, place + shift] for shift in (-1, 0, 1))
        bend = before - 2 * here + after
        shift = np.divide(before - after, 2 * bend, out=np.zeros_like(bend), where=bend > 0)
        at = np.exp(grid[place] + np.clip(shift, -1, 1) * (grid[1] - grid[0]))
        return at, budget / cost(at), bool(losses[0].argmin() in (0, len(grid) - 1))

    def _balanced(self, parameters: float | None, tokens: float | None) -> tuple[Floats, Floats]:
        """Sizes and tokens of every fit where one is given, and best for its FLOPs."""
        cheapest, dearest = (float(value) for value in self.flops(self._sizes[[0, -1]]))
        lowest = cheapest * self._tokens.min() / _BEYOND
        highest = dearest * self._tokens.max() * _BEYOND
        given = parameters if parameters is not None else tokens
        assert given is not None
        for _ in range(2):  # the second time between the budgets that the first one found
            budgets = np.geomspace(lowest, highest, _BUDGETS)
            best = [self._best(self.flops, float(budget))[:2] for budget in budgets]
            sizes, lengths = (np.array(column) for column in zip(*best, strict=True))
            known, other = (sizes, lengths) if parameters is not None else (lengths, sizes)
            known = np.maximum.accumulate(known, axis=0)
            below = np.clip((known < given).sum(axis=0), 1, _BUDGETS - 1)
            lowest, highest = budgets[below.min() - 1], budgets[below.max()]
        columns = np.arange(known.shape[1])
        before, after = (np.log(known[below + shift, columns]) for shift in (-1, 0))
        step = np.where(after > before, after - before, 1.0)
        share = np.clip((np.log(given) - before) / step, 0, 1)
        found = np.exp((1 - share) * np.log(other[below - 1, columns]) + share * np.log(other[below, columns]))
        fixed = np.full(len(found), float(given))
        return (fixed, found) if parameters is not None else (found, fixed)


def as_json(answer: Answer) -> dict[str, Any]:
    """An answer as plain values."""
    values = dataclasses.asdict(answer)
    for name in ("parameters", "tokens", "loss"):
        values[name] = getattr(answer, name)._asdict()
    return values
