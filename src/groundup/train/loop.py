"""The training loop."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from groundup.account import parameter_count
from groundup.config import RunConfig, check_warmup, override
from groundup.data.guard import DataGuard
from groundup.errors import ConfigError, DataError, TrainingError
from groundup.generation import prompt_ids
from groundup.optim import learning_rate_at
from groundup.record.run import RunDirectory
from groundup.record.sinks import Display, Silent
from groundup.system.interruption import Interruption
from groundup.system.threads import wait_by_load
from groundup.train.build import (
    absolute_paths,
    build_loss,
    build_model,
    build_optimizer,
    choose_device,
    choose_precision,
    fit_vocabulary,
    load_tokenizer,
    open_stores,
    prepare_device,
    why_not_compiled,
)
from groundup.train.checkpoint.resume import identity_of, restore
from groundup.train.checkpoint.saving import SaveTimer, Saving
from groundup.train.feed import Feed
from groundup.train.guards import TimeLimit, diverged, watch_for_spike
from groundup.train.preview.describe import check_disk, describe, disk_warning
from groundup.train.preview.fits import check_fits
from groundup.train.preview.profiler import StepProfiler
from groundup.train.ranks.collective import Intent, Ranks, joined
from groundup.train.ranks.failures import AnotherRankError
from groundup.train.ranks.parallel import make_parallel
from groundup.train.ratios import update_ratios
from groundup.train.record import kept_lines, open_record
from groundup.train.report import Reporter
from groundup.train.state import TrainState
from groundup.train.step import StepResult, accumulate_gradients, broken_parameter, train_step


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    run_dir: Path
    finished: bool
    """False if a signal or the time limit stopped it before the schedule's end; it can be resumed."""
    signal: int | None
    summary: dict[str, Any]


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    display: Display | None = None,
    pause: Callable[[int], bool] | None = None,
    session_minutes: float | None = None,
    adopt_config: bool = False,
    force: bool = False,
) -> TrainResult:
    """Train from the first step, or go on from the latest checkpoint as if the run had never stopped.

    Under ``torchrun`` every process calls it with the same arguments.

    Args:
        resume: continue the run in config.run_dir. A run without a checkpoint starts anew; under torchrun, which
            repeats the same command when it starts a job again, so does one that is not there.
        overwrite: delete what is in config.run_dir first.
        display: shows the run to a person; the first rank's is used.
        pause: asked before each step, with the number of steps done; True ends the session with a checkpoint. The
            schedule stays that of the whole run.
        session_minutes: remaining minutes of train.max_minutes, if all sessions of a run share one limit.
        adopt_config: resume though options that decide the result have changed since the checkpoint; only those that
            decide the tensors' shapes cannot. What is adopted is noted in the checkpoints and the summary.
        force: begin though the run cannot fit into memory, or a checkpoint on the disk.

    Raises:
        ConfigError, DataError, FileMissingError: the config, the data, or both together make no run.
        TrainingError: the run directory is taken, loss or gradients are no longer finite, or another rank is gone.
        CheckpointError: a checkpoint cannot be written or read.
        AnotherRankError: the job has ended, and another rank raises what tells the user why.
    """
    run = RunDirectory(config.run_dir)
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite contradict each other; leave one out")
    with joined(run) as ranks, wait_by_load(), ExitStack() as held:
        with ranks.error_barrier():
            if ranks.is_main:
                resume = run.may_train(resume=resume, overwrite=overwrite, launch=ranks.launch)
            trainer = Trainer(config, run, display or Silent(), ranks, pause, session_minutes, force)
        with ranks.error_barrier():
            if ranks.is_main:
                held.enter_context(run.locked())
                if overwrite:
                    run.clear()
        return trainer.run_all(resume=ranks.broadcast(resume), adopt_config=adopt_config)


class Launched(NamedTuple):
    """A step that the device was given to do, and whose numbers nobody has read."""

    result: StepResult
    rate: float
    last: bool
    found: dict[str, Any]
    """For the step's line of metrics."""


class Trainer:
    """The objects of one run, and the loop over its steps."""

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        display: Display,
        ranks: Ranks | None = None,
        pause: Callable[[int], bool] | None = None,
        session_minutes: float | None = None,
        force: bool = False,
    ):
        self._pause, self._session_minutes = pause, session_minutes
        self.ranks = ranks = ranks or Ranks()
        self.run, self.display = run, display if ranks.is_main else Silent()
        self.train_store, self.valid_store = open_stores(config.data)
        self.device = ranks.device(choose_device(config.train.device))
        config = fit_vocabulary(config, self.train_store, self.valid_store)
        precision = choose_precision(config.train.precision, self.device)
        self.config = config = override(config, {"train.precision": precision, **absolute_paths(config)})
        check_warmup(config)
        self.identity = identity_of(config, self.train_store, self.valid_store)
        self.tokenizer = load_tokenizer(config, self.train_store)
        if self.tokenizer is not None and config.sample.interval:
            prompt_ids(self.tokenizer, config.sample.prompt)  # an impossible prompt is an error now, not later
        self.tight = "" if force else check_fits(config, self.device, ranks, len(self.valid_store or ()))
        prepare_device(config.train, self.device)
        self.parallel = make_parallel(config.train.parallel, ranks)
        model = build_model(config, self.parallel.built_on(self.device))
        self.uncompiled = why_not_compiled(self.device) if config.train.compile else ""
        ranks.barrier()
        self.model = self.parallel.spread(model, self.device)
        self.loss = build_loss(
            self.parallel.training_form(self.model),
            compile=config.train.compile and not self.uncompiled,
            chunked=config.train.kernels == "fast",
        )
        self.optimizer = build_optimizer(self.model, config.optim)
        if ranks.is_main and not force:
            check_disk(config, self.model, self.optimizer)
        self.feed = Feed(config, self.train_store, self.device, ranks)
        self.lag = 1 if self.device.startswith("cuda") else 0
        self._launched: deque[Launched] = deque()
        self.state = TrainState()

    def run_all(self, *, resume: bool, adopt_config: bool = False) -> TrainResult:
        """All steps that are left."""
        resumed = resume and restore(
            self.run,
            self.config,
            self.model,
            self.optimizer,
            self.state,
            self.identity,
            self.ranks,
            adopt=adopt_config,
            note=self.display.note,
        )
        self.sinks, self.writer = open_record(
            self.run,
            self.config,
            device=self.device,
            tokenizer=self.tokenizer,
            display=self.display,
            ranks=self.ranks,
            kept=kept_lines(self.state, resumed=resumed),
        )
        self.guard = DataGuard(self.train_store, self.valid_store)
        total = self.config.train.max_iters
        self.display.begin(self.plan(), total, self.state.step)
        began = time.perf_counter() - self.state.wall_seconds
        self._clock = lambda: time.perf_counter() - began
        self.saving = Saving(
            self.writer,
            self.model,
            self.optimizer,
            self.state,
            self.identity,
            clock=self._clock,
            timer=SaveTimer(self.config.train.checkpoint_minutes),
            saved=self.state.step if resumed else None,
        )
        interruption = Interruption()
        self.reporter = Reporter(
            self.config,
            self.state,
            self.sinks,
            model=self.model,
            parallel=self.parallel,
            store=self.valid_store,
            tokenizer=self.tokenizer,
            device=self.device,
            clock=self._clock,
            interruption=interruption,
        )
        self.limit = TimeLimit(self.config.train, reached=self.state.progress, minutes=self._session_minutes)
        left = total - self.state.step if self.ranks.is_main else 0
        self.profiler = StepProfiler(self.config, self.device, self.run.path, left, self.display.note)
        for warning in (self.tight, self.uncompiled, disk_warning(self.config, self.model, self.optimizer)):
            if warning:
                self.display.note(warning)
        with ExitStack() as closing, interruption:
            for part in (self.sinks, self.writer, self.feed, self.profiler):  # each, from the last to the first
                closing.callback(part.close)
            if not resumed:
                self.reporter.begin(None)
            self._finish_report()
            while self._steps_launched < total and self._goes_on(interruption):
                self._step()
            self._book(0)
            self._finish()
        return TrainResult(self.run.path, self._finished, interruption.signal, self._summary())

    def _goes_on(self, interruption: Interruption) -> bool:
        """Between two steps: whether another one is to be made, on all ranks alike."""
        damage = self._check_files()
        own = Intent(
            interruption.signal or 0,
            self.limit.passed or (self._pause is not None and self._pause(self._steps_launched)),
            self.limit.progress((self._steps_launched + 1) / self.config.train.max_iters),
            damage is not None,
            self.saving.timer.due,
        )
        intent = self.ranks.all_reduce_intent(own)
        if intent.signal:
            interruption.signal = signal.Signals(intent.signal)
        if intent.signal or intent.time_is_up:
            return False
        if intent.damaged:  # before any of what is trained so far can be lost to files that are not as they were
            self._book(0)
            self.saving.save(wait=True)
            raise damage or AnotherRankError("the data of another rank are damaged")
        if intent.save:
            self._book(0)
            if self.state.step:
                self.saving.save()
        self.state.progress = intent.progress
        return True

    def _step(self) -> None:
        config, state = self.config, self.state
        number = self._steps_launched + 1
        rate = learning_rate_at(state.progress, config.train.max_iters, config.optim)
        interval = config.train.ratio_interval
        measure = bool(interval) and number % interval == 0
        with update_ratios(self.optimizer, measure=measure) as found, self.profiler.step(number):
            result = self.launch(rate, number - 1)
        last = number == config.train.max_iters or self._schedule_is_over
        self._launched.append(Launched(result, rate, last, found))
        # A GPU has its next step to do before the last one's numbers are read, but where the weights are needed.
        self._book(0 if last or self._looks_at_weights(number) else self.lag)

    def launch(self, learning_rate: float, index: int) -> StepResult:
        """Give the device a step to do, on the batch of that index, counted from 0."""
        self.optimizer.set_learning_rate(learning_rate)
        with self._training_time():
            return train_step(
                self.model,
                self.loss,
                self.optimizer,
                self.feed.micro_batches(index),
                self.feed.passes,
                self.config.optim.grad_clip,
                self._launched[-1].result if self._launched else None,
                self.parallel,
            )

    @property
    def _steps_launched(self) -> int:
        return self.state.step + len(self._launched)

    def _looks_at_weights(self, number: int) -> bool:
        train = self.config.train
        intervals = (train.eval_interval, train.checkpoint_interval, self.config.sample.interval)
        return any(interval and number % interval == 0 for interval in intervals)

    def _book(self, lag: int) -> None:
        """Read and record the steps that were launched, but for the last ``lag`` of them.

        Raises:
            TrainingError: loss or gradient is not finite; the weights have not moved since.
        """
        config, state = self.config, self.state
        while len(self._launched) > lag:
            launched = self._launched.popleft()
            try:
                with self._training_time():
                    loss, norm = launched.result.read()
            except TrainingError as error:
                raise self._diverged(error, launched.rate) from None
            state.step += 1
            state.tokens += config.data.batch_size * config.model.context_length
            state.pending_losses.append(loss)
            found = launched.found | watch_for_spike(state, loss, config.train.spike_factor)
            if found.get("loss_spike"):
                self.display.note(f"step {state.step:,}: loss {loss:.3f} after {found['recent_loss']:.3f} on average")
            self.display.step(state.step, loss)
            self.reporter.begin({"lr": launched.rate, "grad_norm": norm}, found, last=launched.last)
            # Before the evaluation, which can take long. The checkpoint's state says what of the report is still due.
            if state.due_line is not None or state.step % config.train.checkpoint_interval == 0:
                self.saving.save(wait=launched.last)
            self._finish_report()

    def _finish_report(self) -> None:
        """Evaluate and sample where that is due, and complete the step's checkpoint."""
        if self.state.reported:
            return
        is_best = self.reporter.finish()
        if self.state.due_line is None:
            self.saving.settle(best=is_best)

    def _diverged(self, error: TrainingError, rate: float) -> TrainingError:
        if self._launched:  # the gradients that are there belong to a later step; no weight has moved since
            batches = self.feed.micro_batches(self.state.step)
            accumulate_gradients(self.loss, self.optimizer, batches, self.feed.passes, self.parallel)
        if name := broken_parameter(self.model):
            error = TrainingError(f"{error}, first in that of {name}")
        self.writer.close()  # so that the checkpoint named as good is the latest
        kept = max(self.run.steps(), default=None)
        # The record's last word: a loss that is no number.
        self.sinks.metrics({
            "step": self.state.step + 1, "tokens": self.state.tokens, "wall_seconds": round(self._clock(), 3),
            "train_loss": None, "lr": rate,
        })  # fmt: skip
        return diverged(error, self.state.step + 1, rate, self.config.optim, kept)

    def _check_files(self) -> DataError | None:
        """What has happened to the data, if anything; raises what has happened to the run directory."""
        self.writer.check()
        self._tell_notes()
        if self.ranks.is_main:
            self.run.check_present()
        try:
            self.guard.check()
        except DataError as damage:
            return damage
        return None

    def _tell_notes(self) -> None:
        for note in self.writer.take_notes():
            self.display.note(note)

    def _finish(self) -> None:
        self.saving.save(wait=True)
        self._tell_notes()
        if self.ranks.is_main:
            self.run.write_summary(self._summary())
        if self.state.step < self.config.train.max_iters or not self._finished:
            self.display.note(f"{self.limit.why}stopped at step {self.state.step:,}; its checkpoint is written")

    @contextmanager
    def _training_time(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.state.train_seconds += time.perf_counter() - began

    @property
    def _finished(self) -> bool:
        ended = self.state.step >= self.config.train.max_iters or self._schedule_is_over
        return ended and self.state.reported

    @property
    def _schedule_is_over(self) -> bool:
        # By the first rank's clock, as on all ranks, not by each one's own (TimeLimit.schedule_finished).
        return self.config.train.finish_schedule and self.state.progress >= 1

    def _summary(self) -> dict[str, Any]:
        state = self.state
        return {
            "finished": self._finished,
            "step": state.step,
            "tokens": state.tokens,
            "epochs": round(self.feed.batches.epoch(state.step), 3),
            "parameters": parameter_count(self.config.model),
            "best_val_loss": state.best_val_loss,
            "best_step": state.best_step,
            "wall_seconds": round(state.wall_seconds, 1),
            "train_seconds": round(state.train_seconds, 1),
            "tokens_per_second": round(state.tokens / state.train_seconds, 1) if state.train_seconds else None,
        } | ({"adopted_options": state.adopted} if state.adopted else {})

    def plan(self) -> dict[str, str]:
        """The run in words, derived values included."""
        return describe(self.config, self.train_store, self.valid_store, self.device, self.ranks.size)
