"""Tolerant reader of run directories: missing files are not errors, damage is described."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.record.curve import Curve, Floats, with_whole_end
from groundup.record.json import read_object
from groundup.record.metrics import Record, finite, read_metrics, read_samples
from groundup.record.sweep import is_sweep
from groundup.system.files import parse_toml, read_json, read_text, why

MEASURES = {"val_loss": "validation loss", "train_loss": "training loss", "val_bpb": "bits per byte"}
UNITS = {"val_loss": "nats per token", "train_loss": "nats per token", "val_bpb": "bits per byte"}
# How much of the end of metrics.jsonl a list of runs reads: it almost always contains an evaluation, and is small
# enough for thousands of runs.
_TAIL_BYTES = 1 << 16
# A loss this far above the one at step 0 is not the noise of a batch.
_ABOVE_THE_START = 1.05
# A folder with any of these files is a run, or its remains.
_TRACES = ("config.toml", "metrics.jsonl", "summary.json", "environment.json")


@dataclass(eq=False)
class Run:
    """Everything that a run directory says about a run."""

    path: Path
    options: dict[str, Any] = field(default_factory=dict)
    """The options of config.toml, flat, by dotted name."""
    environment: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, float | None] = field(default_factory=dict)
    """Final val_loss, val_bpb, train_loss, tokens_per_second, best_val_loss, steps, tokens, seconds, flops and
    parameters."""
    curves: dict[str, Curve] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    status: str = "unfinished"
    """finished, stopped, diverged, crashed, unfinished, imported or broken."""
    problem: str = ""
    """Description of what is damaged or went wrong."""
    left_out: str = ""
    """Damaged lines that no figure depends on; part of the problem."""
    tokens_per_step: float = math.nan
    flops_per_token: float | None = None
    trial: str = ""
    """Name in the sweep, if the run is part of one."""
    varied: dict[str, Any] = field(default_factory=dict)
    variant: str = ""

    @property
    def name(self) -> str:
        return str(self.options.get("name") or self.path.name)

    @property
    def seed(self) -> int:
        seed = self.options.get("train.seed", 0)
        return seed if isinstance(seed, int) else 0

    @property
    def parent(self) -> str:
        """The checkpoint whose weights it began with, as RUN@STEP; empty if there is none."""
        parent = self.environment.get("parent")
        return f"{parent.get('run')}@{parent.get('step')}" if isinstance(parent, dict) else ""

    @property
    def diverged(self) -> bool:
        return self.status == "diverged"

    @property
    def unstable(self) -> bool:
        """Whether the run diverged, or its loss once rose 5 % above that of the untrained model; known only with
        an evaluation at step 0."""
        curves = [self.curves[name] for name in ("val_loss", "train_loss") if name in self.curves]
        if self.diverged or not curves or curves[0].steps[0] > 0:
            return self.diverged
        start = curves[0].values[0]
        return any(bool(np.any(curve.values > _ABOVE_THE_START * start)) for curve in curves)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run, or the remains of one."""
    return any((folder / name).is_file() for name in _TRACES) or (folder / "checkpoints").is_dir()


def find_runs(folder: Path, *, into_sweeps: bool = False) -> Iterator[Path]:
    """Sweeps and runs at or below a folder, ordered by name.

    Args:
        into_sweeps: yield the runs of a sweep instead of the sweep.
    """
    for place, folders, _ in os.walk(folder):
        here = Path(place)
        if is_sweep(here) and not into_sweeps:
            yield here
            folders.clear()
        elif is_run(here) and not (is_sweep(here) and here == folder):
            yield here
            folders.clear()  # a run contains no other run
        folders.sort()
        folders[:] = [name for name in folders if not name.startswith(".")]


def read_run(path: Path, *, curves: bool = True, count_flops: Callable[[object], float | None] | None = None) -> Run:
    """Read a run; never raises because of what is in the folder.

    Args:
        count_flops: FLOPs per token from the model's options, for a run whose environment.json does not have them.
        curves: read all of metrics.jsonl and the samples; if False, only the end of it, for the final figures.
    """
    run, problems, model = Run(path), [], None
    for name, read in (("config.toml", _toml), ("environment.json", read_object), ("summary.json", read_object)):
        try:
            content = read(path / name)
        except FileNotFoundError:
            if name == "config.toml":
                problems.append("it has no config.toml")
        except (OSError, ValueError) as error:
            problems.append(f"{name} cannot be read: {why(error)}")
        else:
            if name == "config.toml":
                run.options, model = dict(_flat(content)), content.get("model")
            else:
                setattr(run, name.partition(".")[0], content)
    run.flops_per_token = finite(run.environment.get("flops_per_token"))
    if run.flops_per_token is None and count_flops is not None:
        run.flops_per_token = count_flops(model)
    metrics = Record(path / "metrics.jsonl")
    notes = []
    try:
        metrics = read_metrics(metrics.path, last_bytes=0 if curves else _TAIL_BYTES)
    except OSError as error:
        problems.append(f"metrics.jsonl cannot be read: {why(error)}")
    try:
        if curves:
            samples = read_samples(path / "samples.jsonl")
            run.samples, notes = samples.lines, [samples.note]
    except OSError as error:
        notes.append(f"samples.jsonl cannot be read: {why(error)}")
    lines = metrics.lines
    # A damaged line in the middle changes no final figure; a damaged last line does.
    (problems if _end_is_lost(metrics, run.summary) else notes).append(metrics.note)
    if curves:
        run.curves, repeated = _curves(lines)
        if repeated:
            notes.append(f"metrics.jsonl has {repeated} steps more than once; the later lines count")
    try:
        run.tags = read_tags(path)
    except (OSError, ValueError) as error:
        notes.append(f"tags.json cannot be read: {why(error)}")
    run.figures = _figures(run, lines)
    if "train_loss" in run.curves:
        run.figures["train_loss"] = float(run.curves["train_loss"].values[-1])
    run.left_out = "; ".join(filter(None, notes))
    run.problem = "; ".join(filter(None, [*problems, run.left_out]))
    run.status = "broken" if any(problems) else _status(run, lines)
    return run


def _end_is_lost(metrics: Record, summary: dict[str, Any]) -> bool:
    return metrics.last_is_damaged and (not metrics.lines or metrics.lines[-1]["step"] != summary.get("step"))


def read_tags(path: Path) -> list[str]:
    """Return the tags of a run; none without the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has no list of words.
    """
    try:
        tags = read_json(path / "tags.json")
    except FileNotFoundError:
        return []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError("expected a list of words")
    return tags


def _toml(path: Path) -> dict[str, Any]:
    return parse_toml(read_text(path, "surrogateescape"))


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:  # no option is a list; a list is shown as text
            yield prefix + key, value if isinstance(value, str | int | float | bool) else str(value)


def _curves(lines: list[dict[str, Any]]) -> tuple[dict[str, Curve], int]:
    """The curve of each measure, steps ascending, and how many lines repeat a step; the last line of a step counts."""
    steps, seconds = column(lines, "step"), np.nan_to_num(column(lines, "wall_seconds"))
    found, repeated = {}, 0
    for measure in MEASURES:
        values = column(lines, measure)
        there = np.isfinite(values) & np.isfinite(steps)
        if np.any(there):
            last = last_of_each(steps[there])
            found[measure] = Curve(steps[there][last], values[there][last], seconds[there][last])
            repeated = max(repeated, int(np.count_nonzero(there)) - len(last))
    if "train_loss" in found:
        found["train_loss"] = with_whole_end(found["train_loss"])
    return found, repeated


def last_of_each(steps: Floats) -> NDArray[np.int64]:
    """The place of each step's last occurrence, steps ascending."""
    _, from_end = np.unique(steps[::-1], return_index=True)
    return np.asarray(len(steps) - 1 - from_end)


def column(lines: list[dict[str, Any]], name: str) -> Floats:
    """The values of a key, line by line; NaN for a missing number."""
    values = [line.get(name) for line in lines]
    try:
        column = np.array(values, dtype=np.float64)  # None becomes NaN
        if column.ndim == 1:
            return column
    except (TypeError, ValueError):
        pass
    return np.array([finite(value) for value in values], dtype=np.float64)  # some value is not a number


def _figures(run: Run, lines: list[dict[str, Any]]) -> dict[str, float | None]:
    last: dict[str, Any] = {}
    wanted = (*MEASURES, "tokens_per_second")
    for line in reversed(lines):
        for key in (*wanted, "step", "tokens", "wall_seconds"):
            if last.get(key) is None:
                last[key] = line.get(key)
        if all(last.get(key) is not None for key in wanted):
            break
    steps = finite(run.summary.get("step")) or finite(last.get("step"))
    tokens = finite(run.summary.get("tokens")) or finite(last.get("tokens"))
    if steps and tokens:
        run.tokens_per_step = tokens / steps
    best = finite(run.summary.get("best_val_loss"))
    if best is None:
        losses = (finite(line.get("val_loss")) for line in lines)
        best = min((value for value in losses if value is not None), default=None)
    return {
        **{name: finite(last.get(name)) for name in wanted},
        "best_val_loss": best,
        "steps": steps,
        "tokens": tokens,
        "seconds": finite(run.summary.get("wall_seconds")) or finite(last.get("wall_seconds")),
        "flops": tokens * run.flops_per_token if tokens and run.flops_per_token else None,
        "parameters": finite(run.summary.get("parameters")) or finite(run.environment.get("parameters")),
    }


def _status(run: Run, lines: list[dict[str, Any]]) -> str:
    if run.summary:
        return "finished" if run.summary.get("finished") else "stopped"
    if not lines and "imported" in run.environment:
        return "imported"
    # A loss that was not finite is written as null.
    last = next((line for line in reversed(lines) if "train_loss" in line), {"train_loss": 0.0})
    return "diverged" if last["train_loss"] is None else "unfinished"
