"""Overhead of a sweep: per trial, and for scheduling many trials.

    python benchmarks/experiments.py [--cells 200] [--workers 2] [--executors inline pool ray] [--out FILE] [--quick]

The plan has --cells trials of one tiny model, on random tokens. Each trains for about a tenth of a second, so that the
overhead has the largest weight. One row for each executor:

    overhead_s      median over the trials of the time from submission to outcome, minus the run's own training time
                    (what remains: building the model, writing the record, communication)
    idle_share      share of the slots' time between the first and the last trial in which a slot had none
    first_cell_s    time from the start of the sweep to the first outcome: start of processes, and import of torch
    plan_s          time to read the plan and make its trials

`bare` is the row without a sweep: the same configs, one `train` after the other in this process.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from groundup.sweeps.attempt import Job, Outcome
from groundup.sweeps.executors.executor import Executor, InlineExecutor
from groundup.sweeps.executors.pool import Pool
from groundup.sweeps.plan import Plan, load_plan
from groundup.sweeps.sweep import run_sweep
from groundup.train import train
from side_by_side import Report, Row

COLUMNS = """executor workers cells cell_s overhead_s overhead_max_s idle_share first_cell_s sweep_s plan_s failed
    error""".split()
RECIPE = """
name = "tiny"
model = {{ vocab_size = 256, context_length = 32, d_model = 64, num_layers = 2, num_heads = 2 }}
optim = {{ warmup_iters = 2 }}
data = {{ train = "{data}", valid = "{data}", batch_size = 8 }}
train = {{ max_iters = {steps}, eval_interval = {steps}, eval_windows = 16, checkpoint_interval = {steps} }}
sample = {{ interval = 0 }}
"""
PLAN = """
name = "benchmark"
question = "What does a sweep cost?"
recipe = "recipe.toml"
seeds = {cells}
"""


class Timed:
    """Executor that times each job."""

    def __init__(self, inner: Executor):
        self._inner = inner
        self.given: dict[str, float] = {}
        self.known_slots = 1
        self.ended: dict[str, float] = {}

    @property
    def slots(self) -> int:
        self.known_slots = self._inner.slots  # not available after it is closed
        return self.known_slots

    @property
    def memory_shares(self) -> int | None:
        return self._inner.memory_shares

    def submit(self, job: Job) -> None:
        self.given[job.trial] = time.perf_counter()
        self._inner.submit(job)

    def next(self) -> Outcome | None:
        outcome = self._inner.next()
        if outcome is not None:
            self.ended[outcome.trial] = time.perf_counter()
        return outcome

    def close(self) -> None:
        self._inner.close()


def executor(name: str, workers: int, folder: Path) -> Executor:
    """An executor by its name, with one thread a trial."""
    if name == "pool":
        return Pool(workers, folder / "log", threads=1)
    if name == "ray":
        from groundup.sweeps.executors.ray import RayExecutor

        return RayExecutor(workers=workers, threads=1)
    return InlineExecutor()


def measure(name: str, workers: int, plan: Plan, folder: Path) -> Row:
    """Row of a whole sweep on one executor."""
    began = time.perf_counter()
    timed = Timed(executor(name, workers, folder))
    result = run_sweep(plan, timed, directory=folder / "sweep")
    whole = time.perf_counter() - began
    spent = {cell: timed.ended[cell] - timed.given[cell] for cell in timed.ended}
    own = {cell: found.seconds for cell, found in result.results.items()}
    # The first trial of each worker waits for its process, which is not an overhead of a trial.
    later = sorted(spent, key=timed.given.__getitem__)[timed.known_slots :]
    overhead = [spent[cell] - own[cell] for cell in later]
    span = max(timed.ended.values()) - min(timed.given.values())
    return row(name, timed.known_slots, own, overhead) | {
        "idle_share": round(1 - sum(spent.values()) / (timed.known_slots * span), 4),
        "first_cell_s": round(min(timed.ended.values()) - began, 3),
        "sweep_s": round(whole, 2),
        "failed": sum(found.status != "finished" for found in result.results.values()),
    }


def measure_bare(plan: Plan, folder: Path) -> Row:
    """Row of the same runs without a sweep."""
    own, overhead = {}, []
    for cell in plan.trials(folder / "bare"):
        began = time.perf_counter()
        own[cell.name] = train(cell.config).summary["wall_seconds"]
        overhead.append(time.perf_counter() - began - own[cell.name])
    return row("bare", 1, own, overhead[1:])


def row(name: str, workers: int, own: dict[str, float], overhead: list[float]) -> Row:
    """Common columns of all rows."""
    return {
        "what": "sweep", "executor": name, "workers": workers, "cells": len(own),
        "cell_s": round(statistics.median(own.values()), 3),
        "overhead_s": round(statistics.median(overhead), 3), "overhead_max_s": round(max(overhead), 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executors", nargs="+", default=["inline", "pool"], choices=["inline", "pool", "ray"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="few trials, to try the script")
    options = parser.parse_args()
    if options.quick:
        options.cells, options.steps = 4, 4
    report = Report(options.out, about=" ".join(sys.argv[1:]))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        np.save(folder / "tokens.npy", np.random.default_rng(0).integers(0, 256, 10_000).astype(np.uint16))
        recipe = RECIPE.format(data=folder / "tokens.npy", steps=options.steps)
        (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
        (folder / "plan.toml").write_text(PLAN.format(cells=options.cells), encoding="utf-8")
        began = time.perf_counter()
        plan = load_plan(str(folder / "plan.toml"))
        cells = plan.trials(folder)
        planned: dict[str, Any] = {"plan_s": round(time.perf_counter() - began, 3)}
        assert len(cells) == options.cells
        report.add(measure_bare(plan, folder) | planned)
        for name in options.executors:
            report.add(measure(name, options.workers, plan, folder / name))
    report.finish(COLUMNS)


if __name__ == "__main__":
    main()
