"""The training loop."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from groundup.account import parameter_count
from groundup.config import RunConfig, override
from groundup.config.names import by_full_names, check_length
from groundup.data.shards import DataGuard
from groundup.display.display import Display, automatic_display
from groundup.errors import ConfigError, DataError, DivergenceError, TrainingError
from groundup.optim import learning_rate, learning_rate_at, muon_momentum
from groundup.optim.average import is_averaged, update_average
from groundup.optim.schedule import kept_step
from groundup.record.parent import inheriting_recipe
from groundup.record.run import RunDirectory
from groundup.system.interruption import Interruption
from groundup.system.threads import wait_by_load
from groundup.train.build import Trainer, build
from groundup.train.checkpoint.initial import begin_with, with_parent
from groundup.train.checkpoint.resume import restore
from groundup.train.checkpoint.writer import Checkpoints
from groundup.train.device import choose_device, process_settings
from groundup.train.limits import Deadline, TimeLimit, disk_warning
from groundup.train.logging import Logger, open_record, update_ratios
from groundup.train.preview.describe import describe
from groundup.train.preview.profiler import StepProfiler
from groundup.train.ranks.collective import Intent, joined
from groundup.train.ranks.failures import AnotherRankError
from groundup.train.state import TrainState
from groundup.train.step import StepResult, accumulate_gradients, broken_parameter, train_on_batch

_LOSS_EMA_DECAY = 0.9
_NO_END = 2**62
"""Number of steps of a run that ends by its time."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    run_dir: Path
    finished: bool
    """False if a signal or the time limit stopped it before the schedule's end; it can be resumed."""
    signal: int | None
    summary: dict[str, Any]


def train(
    config: RunConfig | str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    display: Display | Literal["auto"] | None = "auto",
    pause: Callable[[int], bool] | None = None,
    session_minutes: float | None = None,
    adopt_config: bool = False,
    force: bool = False,
    **options: Any,
) -> TrainResult:
    """Train from the first step, or resume from the latest checkpoint as if the run had never stopped.

    Under ``torchrun`` every process calls it with the same arguments.

    Args:
        config: the options of the run, or a recipe: a path, or the name of a shipped one.
        resume: continue the run in config.run_dir. A run without a checkpoint starts anew; under torchrun, which
            repeats the same command when it restarts a job, so does a missing run.
        overwrite: delete the contents of config.run_dir first.
        display: shows the run to the user; the first rank's is used. "auto" shows it in a terminal and in a notebook.
        pause: asked before each step, with the number of steps done; True ends the session with a checkpoint. The
            schedule stays that of the whole run.
        session_minutes: remaining minutes of train.max_minutes, if all sessions of a run share one limit.
        adopt_config: resume although options that decide the result have changed since the checkpoint; only those that
            decide the tensors' shapes cannot change. Adopted options are recorded in the checkpoints and the summary.
        force: begin although the run cannot fit into memory, or a checkpoint on the disk.
        options: replace those of config, by short name (``max_iters=100``) or section (``data={"train": "tokens"}``).

    Raises:
        ConfigError, DataError, FileMissingError: the config, the data, or both together make no run.
        TrainingError: the run directory is taken, loss or gradients are not finite, or another rank is gone.
        CheckpointError: a checkpoint cannot be written or read.
        AnotherRankError: the job has ended, and another rank raises what tells the user why.
    """
    changed = by_full_names(options, "train")
    check_length(changed)
    if not isinstance(config, RunConfig):
        config = inheriting_recipe(str(config), changed, resume=resume)
    config = override(config, changed)
    run = RunDirectory(config.run_dir)
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite contradict each other; leave one out")
    with joined(run) as ranks, wait_by_load(), ExitStack() as stack:
        display = automatic_display() if display == "auto" else display
        display = display if ranks.is_main else None
        with ranks.error_barrier():
            if ranks.is_main:
                resume = run.may_train(resume=resume, overwrite=overwrite, launch=ranks.launch)
        begins = ranks.broadcast(not (resume and run.steps()))
        with ranks.error_barrier():
            device = ranks.device(choose_device(config.train.device))
            stack.enter_context(process_settings(config.train, device))
            parent = None
            if config.train.init:
                config, parent = with_parent(config, begins=begins)
            trainer = build(config, device, ranks, force=force, parent=parent)
        if parent is not None:
            begin_with(trainer, parent)  # before anything is deleted
        with ranks.error_barrier():
            if ranks.is_main:
                stack.enter_context(run.locked())
                if overwrite:
                    run.clear()
        note = display.note if display is not None else lambda text: None
        resumed = ranks.broadcast(resume) and restore(trainer, adopt=adopt_config, note=note)
        if not (resumed or begins):
            raise TrainingError(f"the checkpoints of {run.path} are gone since it was looked at; start it again")
        with Session(trainer, display, resumed=resumed, pause=pause, minutes=session_minutes) as session:
            session.evaluate_and_sample()  # before the first step, or what a stopped session left to do
            while session.goes_on():
                session.launch_step()
                session.read_back(leave=session.steps_in_flight)
            session.read_back()
            return session.finish()


class Launched(NamedTuple):
    """A launched step whose loss and gradient norm have not been read back yet."""

    result: StepResult
    learning_rate: float
    last: bool
    found: dict[str, Any]
    """For the step's line of metrics."""


class Session:
    """One process's stretch of a run: launches steps, reads them back, logs, saves and evaluates.

    Args:
        resumed: whether the trainer's state comes from a checkpoint.
        pause, minutes: as ``pause`` and ``session_minutes`` of :func:`train`.
    """

    def __init__(
        self,
        trainer: Trainer,
        display: Display | None,
        *,
        resumed: bool,
        pause: Callable[[int], bool] | None = None,
        minutes: float | None = None,
    ):
        self.trainer, self.state, self.display, self.pause = trainer, trainer.state, display, pause
        config = trainer.config
        by_minutes = config.train.minutes
        self.by_time = config.train.schedule_by_time
        self.total = _NO_END if by_minutes else config.train.max_iters
        self.sinks, self.writer = open_record(trainer, display, resumed=resumed)
        self.guard = DataGuard(trainer.train_store, trainer.valid_store)
        if display is not None:
            plan = describe(config, trainer.train_store, trainer.valid_store, trainer.device, trainer.ranks.size)
            display.begin(plan, 0 if by_minutes else self.total, self.state.step)
        began = time.perf_counter() - self.state.wall_seconds
        self.clock = lambda: time.perf_counter() - began
        saved = self.state.step if resumed else None
        self.checkpoints = Checkpoints(trainer, self.writer, clock=self.clock, saved=saved)
        self.interruption = Interruption()
        self.logger = Logger(trainer, self.sinks, clock=self.clock, interruption=self.interruption)
        limit = TimeLimit(config.train, reached=self.state.progress, minutes=minutes)
        self.limit = limit if limit.is_set else None
        self.deadline: Deadline | None = None
        if by_minutes:
            self.deadline = Deadline(
                by_minutes,
                used=self.state.wall_seconds,
                reached=self.state.progress,
                interval=config.train.eval_interval if trainer.valid_store is not None else config.sample.interval,
                planned=config.train.max_iters,
                clock=time.monotonic,
            )
        self.stop_at = config.train.stop_at if config.train.stop_at > self.state.step else 0
        self.profiler: StepProfiler | None = None
        if config.train.profile and trainer.ranks.is_main:
            self.profiler = StepProfiler(
                config, trainer.device, trainer.run.path, self.total - self.state.step, self.note
            )
        if 0 < config.train.stop_at < self.state.step:
            self.note(f"train.stop_at = {config.train.stop_at:,} has passed: the run goes on after {self.state.step:,}")
        for warning in (*trainer.notes, disk_warning(config, trainer.model, trainer.optimizer)):
            if warning:
                self.note(warning)
        self.launched: deque[Launched] = deque()
        self.steps_in_flight = 1 if trainer.device.startswith("cuda") else 0
        self.kept_step = kept_step(config)
        if not resumed:
            self.logger.log_step(None)
        elif self.state.due_report is not None:
            self.logger.log_step(self.state.due_report["metrics"], self.state.due_report["found"])

    def __enter__(self) -> Self:
        self._closing = ExitStack()
        for part in (self.sinks, self.checkpoints, self.trainer.batches, self.profiler):  # closed from last to first
            if part is not None:
                self._closing.callback(part.close)
        self._closing.enter_context(self.interruption)
        return self

    def __exit__(self, *error: Any) -> None:
        self._closing.__exit__(*error)

    def goes_on(self) -> bool:
        """Save a due checkpoint, set the schedule's progress, and return whether to launch another step.

        All ranks return the same value.

        Raises:
            DataError: shards have changed under the run; the steps so far are saved first.
            CheckpointError, TrainingError: the checkpoint in flight cannot be written, or the run directory is gone.
        """
        number, ranks = self._steps_launched() + 1, self.trainer.ranks
        if number > self.total:
            return False
        damage = self._look_at_files()
        intent = Intent(
            self.interruption.signal or 0,
            (self.limit is not None and self.limit.passed)
            or self._schedule_is_over()
            or (self.pause is not None and self.pause(number - 1))
            or 0 < self.stop_at < number,
            self._progress(number),
            damage is not None,
            time.monotonic() >= self.checkpoints.due_at,
        )
        if ranks.size > 1:
            intent = ranks.all_reduce_intent(intent)
        if intent.signal:
            self.interruption.signal = signal.Signals(intent.signal)
        if intent.signal or intent.time_is_up:
            return False
        if intent.damaged:  # save the steps so far before the damage can reach them
            self.read_back()
            self.checkpoints.save(wait=True)
            raise damage or AnotherRankError("the data of another rank are damaged")
        if intent.save:
            self.read_back()
            if self.state.step:
                self.checkpoints.save()
        self.state.progress = intent.progress
        if self.deadline is not None and self.display is not None and self.deadline.steps_left is not None:
            self.display.expect(number - 1 + self.deadline.steps_left)
        return True

    def _progress(self, number: int) -> float:
        """Share of the schedule that is done after a step."""
        if self.deadline is not None:
            return self.deadline.progress(self.writer.seconds if self.writer is not None else 0.0)
        total = self.trainer.config.train.max_iters
        return number / total if self.limit is None else self.limit.progress(number / total)

    def launch_step(self) -> None:
        """Launch the next step: on a GPU it is queued, on a CPU it is done."""
        trainer, number = self.trainer, self._steps_launched() + 1
        config = trainer.config
        if self.by_time:
            rate = learning_rate_at(self.state.progress, config.train.max_iters, config.optim)
        else:  # by the step, not by its share of them: rounding must not depend on the length of the run
            rate = learning_rate(number, self.total, config.optim)
        # The momentum goes by steps of the schedule, also where its progress is elapsed time.
        if config.optim.muon_momentum_warmup or config.optim.muon_momentum_cooldown:
            place = self.state.progress * self.total if self.by_time else number
            trainer.optimizer.set_momentum(muon_momentum(place, self.total, config.optim))
        interval = config.train.ratio_interval
        due = bool(interval) and number % interval == 0
        ratios: AbstractContextManager[dict[str, Any]] = update_ratios(trainer.optimizer) if due else nullcontext({})
        profiled = self.profiler.step(number) if self.profiler is not None else nullcontext()
        before = self.launched[-1].result if self.launched else None
        with ratios as found, profiled:
            began = time.perf_counter()
            result = train_on_batch(trainer, rate, number - 1, before)
            if config.train.average_last and is_averaged(number, self.state.progress, config):
                self.state.averaged += 1
                update_average(trainer.optimizer, self.state.averaged, config.train.average_decay)
            self.state.train_seconds += time.perf_counter() - began
        last = number in (self.total, config.optim.stage_from) or self._schedule_is_over()
        self.launched.append(Launched(result, rate, last, found))

    def read_back(self, leave: int = 0) -> None:
        """Read loss and gradient norm of the launched steps, all but the last ``leave``; log, save and evaluate.

        On a GPU the next step is launched first, so that the device never waits. A step whose weights are needed, to
        evaluate or to save, is read back at once.

        Raises:
            DivergenceError: a loss or gradient is not finite; no weight has moved since.
        """
        config, state = self.trainer.config, self.state
        if leave and (self.launched[-1].last or self._needs_weights(self._steps_launched())):
            leave = 0
        while len(self.launched) > leave:
            launched = self.launched.popleft()
            began = time.perf_counter()
            try:
                loss, norm = launched.result.read()
            except TrainingError as error:
                raise self._diverged(error, launched.learning_rate) from None
            state.train_seconds += time.perf_counter() - began
            state.step += 1
            state.tokens += self.trainer.batches.batches.tokens(state.step - 1)
            state.pending_losses.append(loss)
            found = launched.found | watch_for_spike(state, loss, config.train.spike_factor)
            if self.display is not None:
                if found.get("loss_spike"):
                    self.note(f"step {state.step:,}: loss {loss:.3f} after {found['recent_loss']:.3f} on average")
                self.display.step(state.step, loss)
            due = launched.last or state.step % config.train.log_interval == 0 or self._needs_weights(state.step)
            if found or due:
                numbers = {"lr": launched.learning_rate, "grad_norm": norm}
                self.logger.log_step(numbers, found, last=launched.last)
            # Before the evaluation, which can take long. The checkpoint's state says what is still due.
            regular = state.step % config.train.checkpoint_interval == 0
            evaluated = state.due_line is not None and (launched.last or config.train.keep_best == "full")
            if regular or evaluated or state.step == self.kept_step:
                self.checkpoints.save(wait=launched.last)
            if state.due_line is not None or state.due_sample:
                self.evaluate_and_sample()

    def evaluate_and_sample(self) -> None:
        """Evaluate and sample, if due, and complete the step's checkpoint."""
        if self.state.due_line is None and not self.state.due_sample:
            return
        with self.deadline.report() if self.deadline is not None else nullcontext():
            is_best = self.logger.evaluate_and_sample()
        if self.state.due_line is None:
            self.checkpoints.settle(best=is_best)

    def finish(self) -> TrainResult:
        """Save the last step and write the summary."""
        trainer = self.trainer
        self.checkpoints.save(wait=True)
        self._tell_notes()
        finished = (self.state.step >= self.total or self._schedule_is_over()) and self.state.reported
        summary = self._summary(finished)
        if trainer.ranks.is_main:
            trainer.run.write_summary(summary)
        if self.state.step < self.total or not finished:
            why = self.limit.why if self.limit is not None else ""
            if self.deadline is not None and self._schedule_is_over():
                why = f"train.minutes = {trainer.config.train.minutes:g}: the schedule has ended; "
            if self.state.step == self.stop_at:
                why = f"train.stop_at = {self.stop_at:,}; "
            self.note(f"{why}stopped at step {self.state.step:,}; its checkpoint is written")
        return TrainResult(trainer.run.path, finished, self.interruption.signal, summary)

    def note(self, text: str) -> None:
        """Show a line to the user."""
        if self.display is not None:
            self.display.note(text)

    def _steps_launched(self) -> int:
        return self.state.step + len(self.launched)

    def _needs_weights(self, number: int) -> bool:
        train = self.trainer.config.train
        intervals = (train.eval_interval, train.checkpoint_interval, self.trainer.config.sample.interval)
        return number == self.kept_step or any(interval and number % interval == 0 for interval in intervals)

    def _schedule_is_over(self) -> bool:
        # By the first rank's clock, as on all ranks, not by each one's own (TimeLimit.schedule_finished).
        return self.by_time and self.state.progress >= 1

    def _look_at_files(self) -> DataError | None:
        """Return the damage of the data, if any; raise what has happened to the run directory or a checkpoint."""
        if self.writer is not None:
            if self.writer.has_news:
                self.writer.check()
                self._tell_notes()
            if not os.path.isfile(self.trainer.run.config_file):
                self.trainer.run.check_present()
        try:
            self.guard.check()
        except DataError as damage:
            return damage
        return None

    def _tell_notes(self) -> None:
        for note in self.writer.take_notes() if self.writer is not None else ():
            self.note(note)

    def _diverged(self, error: TrainingError, learning_rate: float) -> DivergenceError:
        trainer, state, optim = self.trainer, self.state, self.trainer.config.optim
        if self.launched:  # the gradients there belong to a later step; no weight has moved since
            batches = trainer.batches.micro_batches(state.step)
            accumulate_gradients(trainer.loss, trainer.optimizer, batches, trainer.batches.count, trainer.parallel)
        if name := broken_parameter(trainer.model):
            error = TrainingError(f"{error}, first in that of {name}")
        self.checkpoints.close()  # so that the checkpoint named as good is the latest
        # The last line of the record: a loss that is not finite.
        self.sinks.metrics({
            "step": state.step + 1, "tokens": state.tokens, "wall_seconds": round(self.clock(), 3),
            "train_loss": None, "lr": learning_rate,
        })  # fmt: skip
        newest = max(trainer.run.steps(), default=None)
        left = "no checkpoint had been written yet" if newest is None else f"checkpoint step-{newest} is good"
        return DivergenceError(
            f"step {state.step + 1}: {error}, at learning rate {learning_rate:.2e}; nothing was applied and {left}; "
            f"lower optim.max_learning_rate ({optim.max_learning_rate:g}) or lengthen optim.warmup_iters "
            f"({optim.warmup_iters})",
            state.step + 1,
        )

    def _summary(self, finished: bool) -> dict[str, Any]:
        state = self.state
        return {
            "finished": finished,
            "step": state.step,
            "tokens": state.tokens,
            "epochs": round(self.trainer.batches.batches.epoch(state.step), 3),
            "parameters": parameter_count(self.trainer.config.model),
            "best_val_loss": state.best_val_loss,
            "best_step": state.best_step,
            "wall_seconds": round(state.wall_seconds, 1),
            "train_seconds": round(state.train_seconds, 1),
            "tokens_per_second": round(state.tokens / state.train_seconds, 1) if state.train_seconds else None,
        } | {name: value for name, value in (("adopted_options", state.adopted), ("parent", state.parent)) if value}


def watch_for_spike(state: TrainState, loss: float, factor: float) -> dict[str, float | bool]:
    """Compare a step's loss with the average of those before, which it then joins.

    The average is an exponential moving average with decay 0.9, so it needs some steps to follow a jump that stays.
    Such a jump is one spike, reported at its first step; the next may begin once a loss is near the average again.

    Args:
        state: its ``recent_loss`` is the average, None before the first step; ``spiking`` is whether the step before
            was part of a spike.
        factor: how many times the average is a spike; 0 for never.

    Returns:
        For the step's line of metrics: nothing, or ``loss_spike`` with ``spike_loss`` and ``recent_loss``.
    """
    recent, was_spiking = state.recent_loss, state.spiking
    state.recent_loss = loss if recent is None else _LOSS_EMA_DECAY * recent + (1 - _LOSS_EMA_DECAY) * loss
    state.spiking = bool(factor) and recent is not None and loss > factor * recent
    if recent is None or not state.spiking or was_spiking:
        return {}
    return {"loss_spike": True, "spike_loss": loss, "recent_loss": recent}
