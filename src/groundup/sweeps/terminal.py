"""Terminal output of a sweep: the plan with its cost, progress, and a table of the results."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from groundup.display.console import print_section
from groundup.display.progress import Update
from groundup.display.section import Section
from groundup.display.units import time_text, value_text
from groundup.record.sweep import SweepDirectory, TrialResult
from groundup.sweeps.cost import Cost, check_memory, cost_section, this_device, trial_costs
from groundup.sweeps.learning_rate import SEEDS, Best, Preset
from groundup.sweeps.plan import Plan
from groundup.sweeps.sweep import SweepResult, Watch
from groundup.sweeps.trials import Trial, trials_of
from groundup.system.command import command


def print_plan(console: Console, plan: Plan, directory: Path | None = None) -> None:
    """Print the settings of a plan and their cost; nothing runs.

    Raises:
        ConfigError: a trial is invalid or does not fit into memory.
    """
    _print_heading(console, plan)
    device, place = this_device(plan.base), directory or plan.default_directory
    # The trials of a search are not known yet; the recipe itself stands for them.
    trials = plan.trials(place) if plan.search is None else trials_of(plan, place, {}, label="a trial")
    costs = trial_costs(trials, device)
    results = SweepDirectory(place).results()
    print_section(console, *cost_section(trials, costs, [name for name, r in results.items() if r.has_ended]))
    if plan.search is not None:
        options = plan.search.options
        console.print(f"{options.trials} settings with {len(plan.seeds)} seeds each, chosen by {options.sampler}")
    check_memory(trials, costs, device, 1)


class TerminalWatch(Watch):
    """Print a line for each trial that ends, and show the progress in FLOPs as a bar.

    Args:
        update: of the bar (:func:`groundup.display.progress.progress_bar`).
    """

    def __init__(self, console: Console, plan: Plan, update: Update):
        self._console, self._update = console, update
        self._flops: dict[str, int] = {}
        self._left: dict[str, int] = {}
        _print_heading(console, plan)

    def planned(self, trials: Sequence[Trial], costs: Sequence[Cost], ended: Mapping[str, TrialResult]) -> None:
        print_section(self._console, *cost_section(trials, costs, ended.keys()))
        new = {trial.name: cost.flops for trial, cost in zip(trials, costs, strict=True) if trial.name not in ended}
        self._flops |= new
        self._left |= new
        self._show()

    def ended(self, result: TrialResult) -> None:
        self._left.pop(result.trial, None)
        loss = "" if result.val_loss is None else f", valid loss {result.val_loss:.4f}"
        why = f": {result.message}" if result.message else ""
        end = f"{result.status} after {result.steps:,} steps, {time_text(result.seconds)}{loss}{why}"
        self._console.print(Text(f"{result.trial}  {end}"))
        self._show()

    def note(self, text: str) -> None:
        self._console.print(Text(text))

    def _show(self) -> None:
        total = sum(self._flops.values())
        trials = f"{len(self._flops) - len(self._left)} of {len(self._flops)} trials"
        self._update("sweep", total - sum(self._left.values()), total, trials)


def print_result(console: Console, result: SweepResult, place: Path) -> int:
    """Print what came of a sweep and what to do next.

    Args:
        place: the sweep's directory as the user named it.

    Returns:
        The exit code: 0, 1 if a trial crashed, or 128 + the signal that stopped the sweep.
    """
    print_section(console, *results_section(result.results.values()))
    if result.signal:
        console.print(Text(f"stopped; the same command continues {place}"), soft_wrap=True)
        return 128 + result.signal
    crashed = [found for found in result.results.values() if found.status == "crashed"]
    for found in crashed:
        console.print(Text(f"{found.trial} crashed: {found.message}"))
    if crashed:
        console.print("the same command tries crashed trials again")
    console.print(Text(f"report on the results with\n  {command('report', place)}"), soft_wrap=True)
    return 1 if crashed else 0


def print_best(console: Console, best: Best, preset: Preset) -> None:
    """Print the best learning rate that a search found, and how to use it."""
    rate = value_text(best.rate)
    console.print(
        Text(f"best learning rate {rate}, between {value_text(best.low)} and {value_text(best.high)}", style="bold")
    )
    notes = [
        f"95 % interval of the minimum of a parabola, {SEEDS} seeds, runs of {preset.steps:,} steps; of those tried, "
        f"{value_text(best.tried)} has the lowest loss, {best.loss:.4f}."
    ]
    if best.edge:
        notes.append(
            f"It is at the edge of the grid: {value_text(best.tried)} is the {best.edge} learning rate that was tried, "
            f"and a better one may lie {'below' if best.edge == 'lowest' else 'above'}."
        )
    if best.flat:
        notes.append("The losses show no minimum: the interval is what was tried around the lowest.")
    if preset.base.optim.optimizer == "muon":
        notes.append("It is that of Muon's matrices, and of AdamW's other parameters.")
    if preset.base.train.max_iters > preset.steps:
        notes.append(f"The recipe's {preset.base.train.max_iters:,} steps may want a lower one.")
    console.print(Text(" ".join(notes), style="dim"))
    minimum = value_text(best.minimum)
    console.print(Text(f"\n  [optim]\n  max_learning_rate = {rate}\n  min_learning_rate = {minimum}\n"))
    flags = ["--max_learning_rate", rate, "--min_learning_rate", minimum]
    data = [word for name, value in preset.data.items() for word in (f"--{name}", value)]
    console.print(Text(f"train with\n  {command('train', preset.recipe, *data, *flags)}"), soft_wrap=True)


def _print_heading(console: Console, plan: Plan) -> None:
    budget = f" ({plan.chosen})" if plan.chosen else ""
    console.print(Text(f"{plan.name}{budget}: {plan.question}", style="bold"))
    console.print()


def results_section(results: Iterable[TrialResult]) -> Section:
    """A table of the settings with means over their seeds."""
    settings: dict[str, list[TrialResult]] = {}
    for result in results:
        settings.setdefault(result.setting, []).append(result)
    header = ("setting", "seeds", "valid loss", "bits/byte", "train loss", "time", "ended")
    note = "Mean ± standard deviation over the seeds that finished."
    return Section("results", header, [_row(name, found) for name, found in settings.items()], note)


def _row(setting: str, results: list[TrialResult]) -> tuple[str, ...]:
    finished = [result for result in results if result.status == "finished"]
    ends = {status: sum(result.status == status for result in results) for status in ("diverged", "stopped", "crashed")}
    ended = ", ".join(f"{count} {status}" for status, count in ends.items() if count)
    return (
        setting,
        f"{len(finished)}",
        _mean([result.val_loss for result in finished]),
        _mean([result.val_bpb for result in finished]),
        _mean([result.train_loss for result in finished]),
        time_text(statistics.mean(result.seconds for result in results)),
        ended or "finished",
    )


def _mean(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    if not numbers:
        return "n/a"
    spread = f" ± {statistics.stdev(numbers):.4f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.4f}{spread}"
