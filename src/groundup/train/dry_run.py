"""Everything that can be known of a run without making it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from groundup.account import training_flops_per_token
from groundup.config import RunConfig
from groundup.track import Silent
from groundup.train.loop import Trainer
from groundup.train.measure import (
    MFU_CONVENTION,
    known_peak,
    measure_matmul_flops,
    multiplied_in,
    peak_memory,
    synchronize,
    total_memory,
)
from groundup.train.plan import (
    Section,
    disk_section,
    kept_for_backward,
    memory_section,
    optimizer_section,
    parameter_section,
    size_text,
    time_text,
)
from groundup.train.run_directory import RunDirectory

TIMED_STEPS = 8


def seconds_per_step(config: RunConfig, steps: int = TIMED_STEPS) -> float:
    """Median time of a training step of this config on this machine; leaves nothing behind."""
    return time_steps(Trainer(config, RunDirectory(config.run_dir), Silent()), steps)


def time_steps(trainer: Trainer, steps: int = TIMED_STEPS) -> float:
    """Median seconds of a step, at a learning rate of 0; the first two, which allocate and compile, do not count."""
    times = []
    for _ in range(steps + 2):
        synchronize(trainer.device)
        began = time.perf_counter()
        trainer.launch(learning_rate=0.0, index=0).read()
        synchronize(trainer.device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def dry_run(config: RunConfig) -> Iterator[Section]:
    """The plan of a run, table by table; nothing is written.

    What follows from the config comes first: a run that is too large for the machine shows that much before the steps
    that are timed fail.

    Raises:
        ConfigError, DataError, FileMissingError: as for :func:`groundup.train.train`.
    """
    trainer = Trainer(config, RunDirectory(config.run_dir), Silent())
    config = trainer.config
    plan = trainer.plan()
    if not trainer.run.is_untouched():
        plan["run"] += "  (exists already: --resume, --overwrite, or another --name)"
    yield Section("run", (), list(plan.items()))
    yield parameter_section(trainer.model)
    yield optimizer_section(trainer.optimizer)
    yield disk_section(config, trainer.model, trainer.optimizer)
    x, y = next(iter(trainer.feed.micro_batches(0)))
    kept = kept_for_backward(config, trainer.model, trainer.loss, x, y)
    yield memory_section(config, trainer.model, trainer.optimizer, kept, total_memory(trainer.device))
    yield _time_section(trainer, time_steps(trainer))


def _time_section(trainer: Trainer, step_seconds: float) -> Section:
    config, device = trainer.config, trainer.device
    step_tokens = config.data.batch_size * config.model.context_length
    step_flops = step_tokens * training_flops_per_token(config.model)
    rate = step_flops / step_seconds
    peak = known_peak(config.train, device)
    measured = measure_matmul_flops(device, multiplied_in(config.train, device))
    mfu = f"{rate / peak:.1%} of {peak / 1e12:,.1f} TFLOP/s" if peak else "n/a: no data sheet; set train.peak_tflops"
    rows = [
        ("a step", f"{step_seconds * 1e3:,.1f} ms for {step_flops:.2e} FLOPs, the median of {TIMED_STEPS} timed now"),
        ("speed", f"{step_tokens / step_seconds:,.0f} tokens/s"),
        ("MFU", mfu),
        ("of the matmul peak", f"{rate / measured:.1%} of {measured / 1e12:,.3g} TFLOP/s, measured now"),
        ("training", time_text(step_seconds * config.train.max_iters)),
    ]
    if trainer.valid_store is not None:
        windows = -(-(len(trainer.valid_store) - 1) // config.model.context_length)
        windows = min(windows, config.train.eval_windows or windows)
        count = config.train.max_iters // config.train.eval_interval + 1
        # Forward only: a third of the work.
        seconds = count * windows * config.model.context_length / step_tokens * step_seconds / 3
        rows.append(("evaluation", f"about {time_text(seconds)}: {count:,} times {windows:,} windows"))
    rows.append(("memory so far", f"{size_text(peak_memory(device))}, {_whose(device)}"))
    note = f"MFU counts {MFU_CONVENTION}. Left out: samples, checkpoints, and the compiler's time."
    return Section("time", (), rows, note)


def _whose(device: str) -> str:
    return "tensors on the device" if device.startswith("cuda") else "the whole process, torch included"
