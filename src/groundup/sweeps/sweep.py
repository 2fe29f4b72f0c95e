"""Running a plan: every cell once, whatever happens on the way."""

from __future__ import annotations

import math
import os
import signal
import statistics
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.errors import ConfigError
from groundup.sweeps.attempt import Figures, Job, Outcome, loss_at, read_figures
from groundup.sweeps.cost import Cost, cell_cost, check_memory, this_device, too_large
from groundup.sweeps.directory import SweepDirectory
from groundup.sweeps.executors.executor import Executor
from groundup.sweeps.plan import Plan
from groundup.sweeps.results import Result, Status
from groundup.sweeps.search import trials
from groundup.sweeps.trials import Cell
from groundup.system.interruption import Interruption

if TYPE_CHECKING:
    from groundup.account.account import Device

DEFAULT_RETRIES = 2


class Watch:
    """Is told how a sweep goes; by itself it says nothing."""

    def planned(self, cells: Sequence[Cell], costs: Sequence[Cost], ended: Mapping[str, Result]) -> None:
        """Cells that are about to run, with their cost, and those among them that have ended before."""

    def ended(self, result: Result) -> None:
        """A cell has ended."""

    def note(self, text: str) -> None:
        """Something worth a line."""


@dataclass(frozen=True)
class SweepResult:
    """What came of a sweep."""

    directory: Path
    results: dict[str, Result]
    """By the names of the cells, in the plan's order."""
    complete: bool
    """Whether every cell has ended; those that crashed have not."""
    signal: int | None
    """That stopped it; the same command goes on with it."""


def run_sweep(
    plan: Plan,
    executor: Executor,
    *,
    directory: Path | None = None,
    retries: int = DEFAULT_RETRIES,
    watch: Watch | None = None,
) -> SweepResult:
    """Run a plan, or go on with it: cells that have ended are skipped, those that have begun are resumed.

    A cell whose loss is no longer finite has diverged, which is its result. One that crashes, or whose process is
    lost, is tried again; then it is given up, and the others go on.

    Args:
        executor: is closed at the end.
        directory: of the sweep; by default runs/ and the plan's name.
        retries: how often a cell that crashed is tried again.

    Raises:
        ConfigError: a cell does not fit into memory, or was begun with other options.
        TrainingError: another process runs a sweep in the directory.
        DataError: its record is damaged.
    """
    if retries < 0:
        raise ConfigError(f"retries = {retries}; expected 0 or more")
    # Workers may have another working directory, and cells are resumed from anywhere.
    place = SweepDirectory(os.path.realpath(directory or plan.default_directory))
    with closing(executor), place.locked(), Interruption() as interruption:
        sweep = _Sweep(plan, executor, place, retries, watch or Watch(), interruption)
        return sweep.run()


class _Sweep:
    """The state of a sweep that is running."""

    def __init__(
        self,
        plan: Plan,
        executor: Executor,
        directory: SweepDirectory,
        retries: int,
        watch: Watch,
        interruption: Interruption,
    ):
        self.plan, self.executor, self.directory, self.watch = plan, executor, directory, watch
        self.retries, self.interruption = retries, interruption
        self.results = directory.results()
        self.cells: list[Cell] = []
        self.failures: Counter[str] = Counter()
        self.given_up: set[str] = set()
        self.interrupted = False
        self.signal: int | None = None
        """That a cell received, which is trained in this process and takes it first."""
        self.device: Device | None = None
        if executor.memory_shares is not None:
            self.device = this_device(plan.base)

    def run(self) -> SweepResult:
        if self.plan.search is None:
            self._run_cells(self.plan.cells(self.directory.path))
        else:
            for batch in trials(self.plan, self.directory.path, self.results, self.watch.note):
                self._run_cells(batch)
                if self.interrupted:
                    break
        found = {cell.name: self.results[cell.name] for cell in self.cells if cell.name in self.results}
        complete = not self.interrupted and all(self._has_ended(cell) for cell in self.cells)
        number = (self.interruption.signal or self.signal or signal.SIGINT) if self.interrupted else None
        return SweepResult(self.directory.path, found, complete, number)

    def _run_cells(self, cells: list[Cell]) -> None:
        """Bring cells to their ends, by way of the places where some are stopped."""
        costs = [cell_cost(cell, self.device) for cell in cells]
        if self.device is not None and self.plan.search is None:
            check_memory(cells, costs, self.device, self.executor.memory_shares or 1)
        for name in self.directory.adopt(self.plan, cells):
            self.results.pop(name, None)
        self.cells += cells
        self.watch.planned(cells, costs, {c.name: self.results[c.name] for c in cells if self._has_ended(c)})
        if self.device is not None and self.plan.search is not None:
            self._give_up_large(cells, costs, self.device)
        stop = self.plan.stop
        for place in stop.at if stop else ():
            assert stop is not None
            steps = {cell.name: stop.step(place, cell.config) for cell in cells}
            self._run_until([cell for cell in cells if self._is_before(cell, steps[cell.name])], steps)
            if self.interrupted:
                return
            self._judge(cells, steps)
        self._run_until([cell for cell in cells if self._is_open(cell)], {})

    def _has_ended(self, cell: Cell) -> bool:
        return cell.name in self.results and self.results[cell.name].has_ended

    def _is_open(self, cell: Cell) -> bool:
        return not self._has_ended(cell) and cell.name not in self.given_up

    def _is_before(self, cell: Cell, step: int) -> bool:
        return self._is_open(cell) and math.isinf(loss_at(cell.config.run_dir, step))

    def _run_until(self, cells: Iterable[Cell], steps: Mapping[str, int]) -> None:
        """Run cells, as many at once as there is room for, each to its step or to its end."""
        waiting, running = deque(cells), dict[str, Cell]()
        while running or (waiting and not self.interrupted):
            if self.interruption.signal and not self.interrupted:
                self._interrupt()
            while waiting and not self.interrupted and len(running) < self.executor.slots:
                cell = waiting.popleft()
                running[cell.name] = cell
                self.executor.submit(Job(cell=cell.name, config=cell.config, until=steps.get(cell.name)))
            outcome = self.executor.next() if running else None
            if outcome is None:
                continue
            cell = running.pop(outcome.cell)
            if outcome.ending == "interrupted":
                self.signal = self.signal or outcome.signal
                self._interrupt()
            elif outcome.ending in ("crashed", "lost"):
                if self._may_try_again(cell, outcome):
                    waiting.append(cell)
            elif outcome.ending != "paused" or cell.name not in steps:  # or train.max_minutes have passed
                self._record(cell, outcome)

    def _interrupt(self) -> None:
        if not self.interrupted:
            self.interrupted = True
            self.directory.stop_file.touch()
            self.watch.note("stopping: running cells write a checkpoint, and the same command goes on with them")

    def _may_try_again(self, cell: Cell, outcome: Outcome) -> bool:
        self.failures[cell.name] += 1
        if self.interrupted:
            return False
        if not outcome.hopeless and self.failures[cell.name] <= self.retries:
            self.watch.note(f"{cell.name}: {outcome.message}; trying again")
            return True
        self.given_up.add(cell.name)
        figures = outcome.figures if outcome.ending == "crashed" else read_figures(cell.config.run_dir)
        self._add(Result.of(cell, "crashed", self.failures[cell.name], figures, outcome.message))
        return False

    def _record(self, cell: Cell, outcome: Outcome) -> None:
        status: Status = "diverged" if outcome.ending == "diverged" else "finished"
        attempts = 1 + self.failures[cell.name]
        self._add(Result.of(cell, status, attempts, outcome.figures, outcome.message))

    def _add(self, result: Result) -> None:
        self.directory.add(result)
        self.results[result.cell] = result
        self.watch.ended(result)

    def _give_up_large(self, cells: Sequence[Cell], costs: Sequence[Cost], device: Device) -> None:
        """What a search proposes is only known now: a point that does not fit is a result, and not the end."""
        for cell, cost in zip(cells, costs, strict=True):
            why = too_large(cost, device, self.executor.memory_shares or 1)
            if why and self._is_open(cell):
                self.given_up.add(cell.name)
                self._add(Result.of(cell, "crashed", 0, Figures(), why))

    def _judge(self, cells: Sequence[Cell], steps: Mapping[str, int]) -> None:
        """Stop what the rule stops at these steps."""
        assert self.plan.stop is not None
        losses: dict[str, list[float]] = {}
        for cell in cells:
            result = self.results.get(cell.name)
            if result is not None and result.status == "stopped" and result.steps < steps[cell.name]:
                continue  # at an earlier place
            loss = loss_at(cell.config.run_dir, steps[cell.name])
            if math.isfinite(loss) or (result is not None and result.status == "diverged"):
                losses.setdefault(cell.condition, []).append(loss)
        means = {name: statistics.fmean(values) for name, values in losses.items()}
        protected = {cell.condition for cell in cells if cell.is_baseline}
        stopped = self.plan.stop.stopped(means, protected)
        for cell in cells:
            if cell.condition in stopped and self._is_open(cell):
                figures, attempts = read_figures(cell.config.run_dir), 1 + self.failures[cell.name]
                why = f"at step {steps[cell.name]}: {stopped[cell.condition]}"
                self._add(Result.of(cell, "stopped", attempts, figures, why))
