"""A sweep: run every trial of a plan once, and survive crashes, lost processes and interruptions."""

from __future__ import annotations

import dataclasses
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
from groundup.record.sweep import Status, SweepDirectory, TrialResult
from groundup.sweeps.attempt import Figures, Job, Outcome, loss_at, read_figures
from groundup.sweeps.cost import Cost, check_memory, this_device, too_large, trial_costs
from groundup.sweeps.directory import adopt
from groundup.sweeps.executors.executor import Executor
from groundup.sweeps.plan import Plan
from groundup.sweeps.search import proposals
from groundup.sweeps.trials import Trial
from groundup.system.interruption import Interruption

if TYPE_CHECKING:
    from groundup.account.account import Device

DEFAULT_RETRIES = 2


class Watch:
    """Callbacks of a running sweep. This one is silent."""

    def planned(self, trials: Sequence[Trial], costs: Sequence[Cost], ended: Mapping[str, TrialResult]) -> None:
        """Trials are about to run, with their cost; some may have ended in an earlier session."""

    def ended(self, result: TrialResult) -> None:
        """A trial has ended."""

    def note(self, text: str) -> None:
        """A message for the user."""


@dataclass(frozen=True)
class SweepResult:
    """Outcome of a sweep."""

    directory: Path
    results: dict[str, TrialResult]
    """By trial name, in the plan's order."""
    complete: bool
    """Whether every trial has ended; a crashed trial has not."""
    signal: int | None
    """The signal that stopped the sweep; the same command continues it."""


def run_sweep(
    plan: Plan,
    executor: Executor,
    *,
    directory: Path | None = None,
    retries: int = DEFAULT_RETRIES,
    watch: Watch | None = None,
) -> SweepResult:
    """Run a plan, or continue it: ended trials are skipped, begun trials are resumed.

    A trial whose loss becomes non-finite has diverged, which is a result. A trial that crashes or loses its process is
    tried again `retries` times, then given up, and the others continue.

    Args:
        executor: closed at the end.
        directory: of the sweep; by default runs/ and the plan's name.
        retries: how often a crashed trial is tried again.

    Raises:
        ConfigError: a trial does not fit into memory, or was begun with other options.
        TrainingError: another process runs a sweep in the directory.
        DataError: the sweep's record is damaged.
    """
    if retries < 0:
        raise ConfigError(f"retries = {retries}; expected 0 or more")
    # An absolute path: workers may have another working directory, and trials are resumed from any.
    place = SweepDirectory(os.path.realpath(directory or plan.default_directory))
    with closing(executor), place.locked(), Interruption() as interruption:
        sweep = _Sweep(plan, executor, place, retries, watch or Watch(), interruption)
        return sweep.run()


class _Sweep:
    """State of a running sweep."""

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
        self.trials: list[Trial] = []
        self.failures: Counter[str] = Counter()
        self.given_up: set[str] = set()
        self.interrupted = False
        self.signal: int | None = None
        """A signal that interrupted a trial in this process, whose handler comes first."""
        self.device: Device | None = None
        if executor.memory_shares is not None:
            self.device = this_device(plan.base)

    def run(self) -> SweepResult:
        if self.plan.search is None:
            self._run_trials(self.plan.trials(self.directory.path))
        else:
            for batch in proposals(self.plan, self.directory.path, self.results, self.watch.note):
                self._run_trials(batch)
                if self.interrupted:
                    break
        found = {trial.name: self.results[trial.name] for trial in self.trials if trial.name in self.results}
        complete = not self.interrupted and all(self._has_ended(trial) for trial in self.trials)
        number = (self.interruption.signal or self.signal or signal.SIGINT) if self.interrupted else None
        return SweepResult(self.directory.path, found, complete, number)

    def _run_trials(self, trials: list[Trial]) -> None:
        """Run trials to their end, with a pause at each place where some are stopped."""
        costs = trial_costs(trials, self.device)
        if self.device is not None and self.plan.search is None:
            check_memory(trials, costs, self.device, self.executor.memory_shares or 1)
        for name in adopt(self.directory, self.plan, trials, self.results):
            self.results.pop(name, None)
        self.trials += trials
        ended = {trial.name: self.results[trial.name] for trial in trials if self._has_ended(trial)}
        self.watch.planned(trials, costs, ended)
        if self.device is not None and self.plan.search is not None:
            self._give_up_large(trials, costs, self.device)
        stop = self.plan.stop
        for place in stop.at if stop else ():
            assert stop is not None
            steps = {trial.name: stop.step(place, trial.config) for trial in trials}
            self._run_until([trial for trial in trials if self._is_before(trial, steps[trial.name])], steps)
            if self.interrupted:
                return
            self._judge(trials, steps)
        self._run_until([trial for trial in trials if self._is_open(trial)], {})

    def _has_ended(self, trial: Trial) -> bool:
        return trial.name in self.results and self.results[trial.name].has_ended

    def _is_open(self, trial: Trial) -> bool:
        return not self._has_ended(trial) and trial.name not in self.given_up

    def _is_before(self, trial: Trial, step: int) -> bool:
        return self._is_open(trial) and math.isinf(loss_at(trial.config.run_dir, step))

    def _run_until(self, trials: Iterable[Trial], steps: Mapping[str, int]) -> None:
        """Run trials, as many at once as there are slots, each to its step or to its end."""
        waiting, running = deque(trials), dict[str, Trial]()
        while running or (waiting and not self.interrupted):
            if self.interruption.signal and not self.interrupted:
                self._interrupt()
            while waiting and not self.interrupted and len(running) < self.executor.slots:
                trial = waiting.popleft()
                running[trial.name] = trial
                self.executor.submit(Job(trial=trial.name, config=trial.config, until=steps.get(trial.name)))
            outcome = self.executor.next() if running else None
            if outcome is None:
                continue
            trial = running.pop(outcome.trial)
            if outcome.ending == "interrupted":
                self.signal = self.signal or outcome.signal
                self._interrupt()
            elif outcome.ending in ("crashed", "lost"):
                if self._may_try_again(trial, outcome):
                    waiting.append(trial)
            elif outcome.ending != "paused" or trial.name not in steps:  # or train.max_minutes are over
                self._record(trial, outcome)

    def _interrupt(self) -> None:
        if not self.interrupted:
            self.interrupted = True
            self.directory.stop_file.touch()
            self.watch.note("stopping: running trials save a checkpoint, and the same command continues them")

    def _may_try_again(self, trial: Trial, outcome: Outcome) -> bool:
        self.failures[trial.name] += 1
        if self.interrupted:
            return False
        if not outcome.hopeless and self.failures[trial.name] <= self.retries:
            self.watch.note(f"{trial.name}: {outcome.message}; trying again")
            return True
        self.given_up.add(trial.name)
        figures = outcome.figures if outcome.ending == "crashed" else read_figures(trial.config.run_dir)
        self._add(_result(trial, "crashed", self.failures[trial.name], figures, outcome.message))
        return False

    def _record(self, trial: Trial, outcome: Outcome) -> None:
        status: Status = "diverged" if outcome.ending == "diverged" else "finished"
        attempts = 1 + self.failures[trial.name]
        self._add(_result(trial, status, attempts, outcome.figures, outcome.message))

    def _add(self, result: TrialResult) -> None:
        self.directory.add(result)
        self.results[result.trial] = result
        self.watch.ended(result)

    def _give_up_large(self, trials: Sequence[Trial], costs: Sequence[Cost], device: Device) -> None:
        """Record trials of a search that do not fit into memory as crashed; the search continues."""
        for trial, cost in zip(trials, costs, strict=True):
            why = too_large(cost, device, self.executor.memory_shares or 1)
            if why and self._is_open(trial):
                self.given_up.add(trial.name)
                self._add(_result(trial, "crashed", 0, Figures(), why))

    def _judge(self, trials: Sequence[Trial], steps: Mapping[str, int]) -> None:
        """Stop the settings that the rule stops at these steps."""
        assert self.plan.stop is not None
        losses: dict[str, list[float]] = {}
        for trial in trials:
            result = self.results.get(trial.name)
            if result is not None and result.status == "stopped" and result.steps < steps[trial.name]:
                continue  # stopped at an earlier place
            loss = loss_at(trial.config.run_dir, steps[trial.name])
            if math.isfinite(loss) or (result is not None and result.status == "diverged"):
                losses.setdefault(trial.setting, []).append(loss)
        means = {name: statistics.fmean(values) for name, values in losses.items()}
        protected = {trial.setting for trial in trials if trial.is_baseline}
        stopped = self.plan.stop.stopped(means, protected)
        for trial in trials:
            if trial.setting in stopped and self._is_open(trial):
                figures, attempts = read_figures(trial.config.run_dir), 1 + self.failures[trial.name]
                why = f"at step {steps[trial.name]}: {stopped[trial.setting]}"
                self._add(_result(trial, "stopped", attempts, figures, why))


def _result(trial: Trial, status: Status, attempts: int, figures: Figures, message: str = "") -> TrialResult:
    return TrialResult(
        trial=trial.name, setting=trial.setting, varied=trial.varied, variant=trial.variant, seed=trial.seed,
        status=status, attempts=attempts, run=trial.name, message=message, **dataclasses.asdict(figures),
    )  # fmt: skip
