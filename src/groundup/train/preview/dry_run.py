"""Dry run: plan, cost and speed of a run. Writes nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from groundup.account import training_flops_per_token
from groundup.account.account import memory_values, parameter_values
from groundup.account.sections import memory_section, parameter_section
from groundup.config import RunConfig, TrainConfig
from groundup.data.batches import DocumentRows
from groundup.display.section import Section
from groundup.display.units import size_text, time_text
from groundup.record.run import RunDirectory
from groundup.system.threads import wait_by_load
from groundup.train.build import Trainer, build
from groundup.train.checkpoint.initial import with_parent
from groundup.train.checkpoint.resume import latest_checkpoint
from groundup.train.device import (
    choose_device,
    known_peak,
    measure_matmul_flops,
    multiplied_in,
    peak_memory,
    process_settings,
    synchronize,
    total_memory,
)
from groundup.train.preview.describe import describe, disk_section, optimizer_section
from groundup.train.step import train_on_batch

TIMED_STEPS = 8


def seconds_per_step(config: RunConfig, steps: int = TIMED_STEPS) -> float:
    """Return the median time of a training step of this config on this machine. Writes nothing."""
    device = choose_device(config.train.device)
    with process_settings(config.train, device):
        return time_steps(build(config, device), steps)


@wait_by_load()
def time_steps(trainer: Trainer, steps: int = TIMED_STEPS) -> float:
    """Return the median seconds of a step at learning rate 0, without the first two, which allocate and compile."""
    times = []
    for _ in range(steps + 2):
        synchronize(trainer.device)
        began = time.perf_counter()
        train_on_batch(trainer, learning_rate=0.0, index=0).read()
        synchronize(trainer.device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def dry_run(
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    adopt_config: bool = False,
    force: bool = False,
) -> Iterator[Section]:
    """Yield the plan of a run, table by table. Writes nothing.

    Tables that follow from the config come first: if the run is too large for the machine, they show it before the
    timed steps fail.

    Args:
        resume: plan the rest of the run in config.run_dir, after its latest checkpoint.
        overwrite: do not mention an existing run.
        adopt_config, force: as for :func:`groundup.train.train`.

    Raises:
        ConfigError, DataError, FileMissingError, CheckpointError: as for :func:`groundup.train.train`.
    """
    device = choose_device(config.train.device)
    with process_settings(config.train, device):
        begins = not (resume and RunDirectory(config.run_dir).steps())
        parent = None
        if config.train.init:
            config, parent = with_parent(config, begins=begins)
        trainer = build(config, device, force=force, parent=parent)
        yield from _sections(trainer, resume=resume, overwrite=overwrite, adopt_config=adopt_config)


def _sections(trainer: Trainer, *, resume: bool, overwrite: bool, adopt_config: bool) -> Iterator[Section]:
    config = trainer.config
    plan = describe(config, trainer.train_store, trainer.valid_store, trainer.device)
    done = 0
    if resume:
        found = latest_checkpoint(trainer.run, config, trainer.identity, adopt=adopt_config)
        done = found.start.state["step"] if found else 0
        plan["left"] = f"{config.train.max_iters - done:,} steps, after step {done:,}"
        if config.train.minutes:
            used = found.start.state["wall_seconds"] if found else 0.0
            left = max(0.0, 60 * config.train.minutes - used)
            plan["left"] = f"{time_text(left)} of {config.train.minutes:g} minutes, after step {done:,}"
    elif not (overwrite or trainer.run.is_untouched()):
        plan["run"] += "  (exists already: --resume, --overwrite, or another --name)"
    yield Section("run", (), list(plan.items()))
    yield parameter_section(parameter_values(config.model))
    yield optimizer_section(trainer.optimizer)
    yield disk_section(config, trainer.model, trainer.optimizer)
    yield _memory_section(trainer)
    yield _time_section(trainer, done, time_steps(trainer))


def _memory_section(trainer: Trainer) -> Section:
    kind = trainer.device.partition(":")[0]
    values = memory_values(trainer.config, kind)
    section = memory_section(values, "memory", total=total_memory(trainer.device))
    left_out = " Not included: torch itself, and fragmentation of the allocator."
    return section._replace(note=section.note + left_out)


def _time_section(trainer: Trainer, done: int, step_seconds: float) -> Section:
    config, device = trainer.config, trainer.device
    step_tokens = trainer.batches.batches.tokens(0)  # of the step that was timed
    step_flops = step_tokens * training_flops_per_token(config.model)
    rate = step_flops / step_seconds
    peak = known_peak(config.train, device)
    measured = measure_matmul_flops(device, multiplied_in(config.train, device))
    rows = [
        ("a step", f"{step_seconds * 1e3:,.1f} ms for {step_flops:.2e} FLOPs, median of {TIMED_STEPS} steps timed now"),
        ("speed", f"{step_tokens / step_seconds:,.0f} tokens/s"),
        ("MFU", f"{rate / peak:.1%}" if peak else "n/a"),
        ("of a matmul", f"{rate / measured:.1%} of {measured / 1e12:,.3g} TFLOP/s, measured now"),
        ("training", _training_time(config.train, done, step_seconds)),
    ]
    if trainer.valid_store is not None:
        offsets = trainer.valid_store.offsets_for(config.data.pack)
        windows = -(-(len(trainer.valid_store) - 1) // config.model.context_length)
        if offsets is not None:
            windows = len(DocumentRows(offsets, config.model.context_length))
        windows = min(windows, config.train.eval_windows or windows)
        # Forward only: a third of the FLOPs.
        seconds = windows * config.model.context_length / step_tokens * step_seconds / 3
        if config.train.minutes:  # within them
            every = f"every {config.train.eval_interval:,} steps"
            rows.append(("evaluation", f"about {time_text(seconds)} for {windows:,} windows, {every}"))
        else:
            count = evaluations_left(config.train, done)
            rows.append(("evaluation", f"about {time_text(count * seconds)}: {count:,} times {windows:,} windows"))
    rows.append(("memory", f"{size_text(peak_memory(device))} at the peak of these steps, {_whose(device)}"))
    return Section("time", (), rows, "Not included: samples, checkpoints and compilation.")


def evaluations_left(config: TrainConfig, done: int) -> int:
    """Number of evaluations left: before the first step, at every interval, and after the last step."""
    after_steps = -(-config.max_iters // config.eval_interval) - done // config.eval_interval
    return (after_steps if done < config.max_iters else 0) + (done == 0)


def _training_time(config: TrainConfig, done: int, step_seconds: float) -> str:
    if config.minutes:
        steps = 60 * config.minutes / step_seconds
        return (
            f"{config.minutes:g} minutes in all: about {steps:,.0f} steps at this speed, fewer by the time of "
            f"evaluations and checkpoints"
        )
    left = config.max_iters - done
    text, limit = f"{time_text(step_seconds * left)} for {left:,} steps", 60 * config.max_minutes
    if limit and limit < step_seconds * left:
        text += f"; train.max_minutes = {config.max_minutes:g} is enough for about {limit / step_seconds:,.0f}"
    return text


def _whose(device: str) -> str:
    return "tensors on the device" if device.startswith("cuda") else "the whole process, torch included"
