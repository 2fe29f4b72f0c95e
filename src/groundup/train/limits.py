"""Limits of a run: time limit of a session, and checks of memory and disk space before the run begins."""

from __future__ import annotations

import dataclasses
import math
import shutil
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from groundup.account import parameter_count
from groundup.account.fit import largest_batch, largest_model
from groundup.account.memory import StepMemory, available_memory, step_memory
from groundup.config import RunConfig, TrainConfig
from groundup.config.options import nearest_divisors
from groundup.display.units import size_text
from groundup.errors import ConfigError
from groundup.optim.schedule import kept_step
from groundup.train.ranks.collective import Ranks

_WITH_WASTE = 1.2
"""Memory of a process over that of its tensors: allocator fragmentation and libraries (docs/explanation/costs.md)."""
_FLOAT32 = 4
_LAST = 1.5
"""A step is the last one if less than this many steps' time is left before it: the end is nearest to the deadline."""
_RECENT_STEPS = 16
_LEAST_STEP = 1e-9
_LEAST_PLANNED = 1000
_BYTES_OF_IDS = 16
"""Bytes of a token of a batch: input and target, int64 each. The whole batch is in memory at once."""


class TimeLimit:
    """Time limit of a session (``train.max_minutes``).

    With ``train.finish_schedule`` the learning-rate schedule ends within the time limit: :meth:`progress` is the larger
    of the shares of the run done by steps and by elapsed time. The session ends with a step at the end of the schedule,
    which may end a step or two after the limit, and the run is finished. Such a run depends on the machine's speed and
    cannot be repeated step by step. If it is interrupted and resumed, it continues from the progress that it had
    reached, and the rest of the schedule takes the time of the new session.

    Args:
        reached: progress at the start of the session.
        minutes: limit of the session, in place of the config's.
        clock: returns seconds; the session begins with the first call.
    """

    def __init__(
        self,
        config: TrainConfig,
        reached: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        *,
        minutes: float | None = None,
    ):
        self._limit = 60 * (config.max_minutes if minutes is None else minutes)
        self._finish = config.finish_schedule
        self._reached = self._progress = reached
        self._clock = clock
        self._began = clock()
        self._last_asked: float | None = None
        self._step_seconds = math.inf

    @property
    def is_set(self) -> bool:
        """Whether there is a limit."""
        return bool(self._limit)

    @property
    def schedule_finished(self) -> bool:
        """Whether the step of the last :meth:`progress` call ends the schedule; False without finish_schedule."""
        return bool(self._limit) and self._finish and self._progress >= 1

    @property
    def passed(self) -> bool:
        """Whether the session must end; False without a limit."""
        if not self._limit:
            return False
        return self.schedule_finished if self._finish else self._clock() - self._began >= self._limit

    @property
    def why(self) -> str:
        """The reason, for a message, if the time limit ends the session; empty otherwise."""
        if not self.passed:
            return ""
        end = "the schedule has ended" if self._finish else "the time is up"
        return f"train.max_minutes = {self._limit / 60:g}: {end}; "

    def progress(self, steps: float) -> float:
        """Return the share of the run that is done after the next step, in [0, 1]. Call it once before each step.

        It is 1 for the step that reaches the time limit, estimated from the fastest step so far (others may include an
        evaluation). It never decreases.

        Args:
            steps: number of the next step over the number of all steps.
        """
        if not (self._limit and self._finish):
            return steps
        now = self._clock()
        if self._last_asked is not None:
            self._step_seconds = min(self._step_seconds, now - self._last_asked)
        self._last_asked = now
        ends = now + (self._step_seconds if self._step_seconds < math.inf else 0.0)
        share = min(1.0, (ends - self._began) / self._limit)
        # 1 - (1 - a)(1 - b), not a + (1 - a) b, which rounding can keep below 1.
        by_clock = 1 - (1 - self._reached) * (1 - share)
        self._progress = min(1.0, max(self._progress, steps, by_clock))
        return self._progress


class Deadline:
    """Learning-rate schedule of a run that trains for ``train.minutes``: it ends at the deadline.

    Each step advances the schedule by its share of what is left: ``(1 - progress) / steps left``. The number of steps
    left follows from the measured time of a step and of an evaluation; time is kept for the last evaluation and
    checkpoint. So a change of speed bends the rest of the schedule, and the last step still ends in time. Compilation
    in the first step takes time, and no part of the schedule.

    Args:
        minutes: all training time of the run.
        used: seconds that the run has used already, in earlier sessions.
        reached: progress at the start of the session.
        interval: steps between evaluations; 0 for none.
        planned: steps of the recipe (``train.max_iters``). Until a step has been measured, one counts as this share.
        clock: returns seconds; the session begins with the first call.
    """

    def __init__(
        self,
        minutes: float,
        *,
        used: float = 0.0,
        reached: float = 0.0,
        interval: int = 0,
        planned: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._clock, self._ends = clock, clock() + 60 * minutes - used
        self._progress = reached
        self._interval = interval
        self._first = 1 / max(planned, _LEAST_PLANNED)
        self._asked: float | None = None
        self._between = 0.0  # since the last call
        self._reports: list[float] = []
        self._steps = -1  # measured ones; the first of a session compiles and allocates
        self._recent: deque[float] = deque(maxlen=_RECENT_STEPS)
        self.steps_left: int | None = None
        """Estimated number of steps from the next one on; None until a step has been measured."""

    @contextmanager
    def report(self) -> Iterator[None]:
        """Measure an evaluation with its sample, which comes between steps and after the last one."""
        began = self._clock()
        try:
            yield
        finally:
            self._reports.append(self._clock() - began)
            self._between += self._reports[-1]

    @property
    def _end(self) -> float:
        """Expected seconds of the last evaluation: those of the longest, without the first one, which compiles."""
        return max(self._reports[1:] or self._reports, default=0.0)

    def progress(self, writing: float = 0.0) -> float:
        """Return the share of the run that is done after the next step, in [0, 1]. Call it once before each step.

        It is 1 for the last step: the one after which no other would end in time. It never decreases.

        Args:
            writing: expected seconds of the last checkpoint.
        """
        now = self._clock()
        if self._asked is not None:
            self._steps += 1
            if self._steps:
                self._recent.append(max(now - self._asked - self._between, _LEAST_STEP))
        self._asked, self._between = now, 0.0
        left = self._ends - now - self._end - writing
        if left <= 0:
            share = 1.0
        elif not self._recent:
            share = self._first
        else:
            step = statistics.median(self._recent)
            if left < _LAST * step:
                share = 1.0
            else:
                share = min(1.0, (step + (self._end / self._interval if self._interval else 0.0)) / left)
                self.steps_left = round(1 / share)
        self._progress = 1.0 if share == 1.0 else min(1.0, self._progress + (1 - self._progress) * share)
        if self._progress == 1.0:
            self.steps_left = 1
        return self._progress


# Memory


def check_fits(config: RunConfig, device: str, ranks: Ranks, valid_tokens: int = 0) -> str:
    """Refuse a run that needs more memory than is available.

    The estimate is a lower bound, the peak of the run's tensors; a process needs more. So a run that fits is never
    refused. A run that may not fit gets a note.

    Args:
        config: resolved, with the vocabulary size.
        valid_tokens: number of validation tokens; 0 without validation data.

    Returns:
        A note if the run may not fit; empty otherwise.

    Raises:
        ConfigError: it cannot fit; says how much it needs, how much is available, and what would fit.
    """
    here = ranks.launch.local_ranks
    ids = _BYTES_OF_IDS * (config.data.batch_size // ranks.size) * config.model.context_length
    if ids > (host := available_memory() / here):
        raise ConfigError(
            f"data.batch_size = {config.data.batch_size}: the token ids of one batch take {_size(ids)}, but "
            f"{_size(host)} are available on this machine; use a smaller batch, or override with --force"
        )
    memory = _memory(config, device, ranks)
    there = memory_left(device) if device.startswith("cuda") else host
    least = _least(config, memory, ranks)
    if least > there:
        raise ConfigError(_too_large(config, memory, least, there, device, ranks))
    fixed = memory.weights + memory.optimizer_state if least == memory.peak else 0  # FSDP shards them
    if valid_tokens and (evaluation := fixed + _evaluation_bytes(config, valid_tokens)) > there:
        raise ConfigError(
            f"train.eval_batch_size = {config.train.eval_batch_size}: an evaluation needs at least "
            f"{_size(evaluation)} of memory, but {_size(there)} are available; use a smaller one, or override with "
            f"--force"
        )
    needed = _WITH_WASTE * memory.needed
    if least == memory.peak and needed > there:
        return (
            f"memory may run out: about {_size(needed)} are needed and {_size(there)} are available; a smaller "
            f"data.micro_batch_size or train.background_checkpoints = false needs less"
        )
    return ""


def memory_left(device: str) -> float:
    """Return the free memory of a CUDA device in bytes, including what this process's allocator caches."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _memory(config: RunConfig, device: str, ranks: Ranks) -> StepMemory:
    micro_batches = config.data.micro_batches(ranks.size)
    batch_size = config.data.batch_size // ranks.size // micro_batches
    return step_memory(
        config.model,
        config.optim,
        config.train,
        batch_size=batch_size,
        micro_batches=micro_batches,
        device=_kind(device),
    )


def _least(config: RunConfig, memory: StepMemory, ranks: Ranks) -> float:
    if ranks.size == 1 or config.train.parallel == "ddp":
        return memory.peak
    # FSDP: a shard of what does not depend on the batch, and the rank's own activations.
    return memory.fixed / ranks.size + memory.activations


def _evaluation_bytes(config: RunConfig, valid_tokens: int) -> float:
    """Least memory of an evaluation batch: token ids, residual stream and FFN input."""
    context = config.model.context_length
    windows = -(-valid_tokens // context)
    batch_size = min(config.train.eval_batch_size, config.train.eval_windows or windows, windows)
    return batch_size * context * (_BYTES_OF_IDS + 2 * _FLOAT32 * config.model.d_model)


def _too_large(config: RunConfig, memory: StepMemory, least: float, there: float, device: str, ranks: Ranks) -> str:
    where = f"on {device}" if device.startswith("cuda") else "on this machine"
    return (
        f"the run needs at least {_size(least)} of memory (weights {_size(memory.weights)}, gradients "
        f"{_size(memory.gradients)}, optimizer {_size(memory.optimizer_state)}, activations "
        f"{_size(memory.activations)}), but {_size(there)} are available {where}; "
        f"{_what_fits(config, there, device, ranks)}, or override with --force"
    )


def _what_fits(config: RunConfig, there: float, device: str, ranks: Ranks) -> str:
    data, kind = config.data, _kind(device)
    share = data.batch_size // ranks.size
    # The lower bound does not include a copy for a background checkpoint, so neither does this.
    train = dataclasses.replace(config.train, background_checkpoints=False)
    most = largest_batch(config.model, config.optim, train, there, micro_batches=2, device=kind)
    if fitting := [batch for batch in nearest_divisors(share, most + 1) if 0 < batch <= most]:
        return f"what fits: --micro_batch_size {fitting[0]}"
    batch_size = share // data.micro_batches(ranks.size)
    model = largest_model(
        config.model,
        config.optim,
        train,
        there,
        batch_size=batch_size,
        micro_batches=data.micro_batches(ranks.size),
        device=kind,
    )
    if model is None:
        return "no model of this shape fits; use a smaller batch, context or vocabulary"
    return (
        f"the largest of this shape that fits: --d_model {model.d_model} --num_layers {model.num_layers} --num_heads "
        f"{model.num_heads} ({parameter_count(model):,} parameters)"
    )


def _size(count: float) -> str:
    return size_text(count) if count < 1e18 else "more than a billion GB"


def _kind(device: str) -> str:
    return device.partition(":")[0]


# Disk


def checkpoint_bytes(model: nn.Module, optimizer: torch.optim.Optimizer, *, averaged: bool = False) -> int:
    """Size of a checkpoint in bytes: weights, and float32 moments of the optimizer (one for Muon, two for AdamW).

    Args:
        averaged: with the average of the weights too.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    moments = sum(
        4 * p.numel() * (1 if group.get("algorithm") == "muon" else 2)
        for group in optimizer.param_groups
        for p in group["params"]
    )
    return weights * (1 + averaged) + moments


def most_checkpoints(config: TrainConfig, *, evaluates: bool, also: int = 0) -> int:
    """Largest number of checkpoints on the disk at once: those kept, the best, and one being written.

    Args:
        also: how many more there are: one before the learning rate decays, one at the end of the first stage.
    """
    written = -(-config.max_iters // config.checkpoint_interval)
    full = config.keep_best == "full"
    if evaluates and full:
        written += config.max_iters // config.eval_interval
    return also + (min(written, config.keep_checkpoints + 1 + full) if config.keep_checkpoints else written)


def checkpoints_at_once(config: RunConfig) -> int:
    """Most checkpoints of a run on the disk at once."""
    also = (kept_step(config) > 0) + (config.optim.stage_from > 0)
    return most_checkpoints(config.train, evaluates=bool(config.data.valid), also=also)


def best_bytes(config: RunConfig, model: nn.Module) -> int:
    """Most bytes of weights kept without optimizer state: the best, the one before it, and one being written."""
    if config.train.keep_best != "weights" or not config.data.valid:
        return 0
    return 3 * sum(p.numel() * p.element_size() for p in model.parameters())


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


def check_disk(config: RunConfig, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse a run if the disk has no room for one checkpoint: all its steps would be lost.

    Raises:
        ConfigError: says how large a checkpoint is and how much space is free.
    """
    needed = checkpoint_bytes(model, optimizer, averaged=config.train.average_last > 0)
    free = free_bytes(config.run_dir)
    if needed > free:
        raise ConfigError(
            f"a checkpoint takes {size_text(needed)}, but {size_text(free)} are free on the disk of {config.run_dir}; "
            f"free some space, choose another --runs_dir, or override with --force"
        )


def disk_warning(config: RunConfig, model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """One line if the checkpoints will not fit on the disk; empty otherwise."""
    one = checkpoint_bytes(model, optimizer, averaged=config.train.average_last > 0)
    needed = one * checkpoints_at_once(config) + best_bytes(config, model)
    free = free_bytes(config.run_dir)
    if needed <= free:
        return ""
    return (
        f"checkpoints may take {size_text(needed)}, but {size_text(free)} are free on the disk of {config.run_dir}; "
        f"keep fewer (train.keep_checkpoints = {config.train.keep_checkpoints}) or choose another --runs_dir"
    )
