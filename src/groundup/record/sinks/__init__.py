"""Sinks: where a run's metrics and samples go. Always JSONL; W&B and TensorBoard on request."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from groundup.config import TrackConfig
from groundup.display.display import Display, Metrics, Silent, Sink
from groundup.errors import TrainingError
from groundup.record.metrics import Record, json_values, read_jsonl, read_metrics, read_samples
from groundup.system.files import text_bytes, write_atomically

__all__ = ["Display", "JsonlSink", "Metrics", "Silent", "Sink", "Sinks", "external_sinks", "read_jsonl"]


class Sinks:
    """Several sinks as one."""

    def __init__(self, sinks: Iterable[Sink]):
        self.sinks = list(sinks)

    def metrics(self, line: Metrics) -> None:
        for sink in self.sinks:
            sink.metrics(line)

    def sample(self, line: Metrics) -> None:
        for sink in self.sinks:
            sink.sample(line)

    def close(self) -> None:
        with ExitStack() as closing:  # one that cannot be closed leaves no other open
            for sink in reversed(self.sinks):
                closing.callback(sink.close)


class JsonlSink:
    """Writer of ``metrics.jsonl`` and ``samples.jsonl`` in a run directory; each line is written at once.

    Args:
        after_step: lines of later steps are dropped first, so that a file never has a step twice; -1 drops all.
        samples_after: the same for samples; by default after_step.

    Attributes:
        notes: one line for each file with damaged lines among those that stay; the damaged ones are dropped too.
    """

    def __init__(self, run_dir: Path, after_step: int = -1, samples_after: int | None = None):
        self.paths = {"metrics": run_dir / "metrics.jsonl", "samples": run_dir / "samples.jsonl"}
        self.notes: list[str] = []
        if self.paths["metrics"].exists():
            self._cut(read_metrics(self.paths["metrics"]), after_step)
        if self.paths["samples"].exists():
            self._cut(read_samples(self.paths["samples"]), after_step if samples_after is None else samples_after)
        self._files = {name: path.open("ab", buffering=0) for name, path in self.paths.items()}

    def _cut(self, record: Record, after_step: int) -> None:
        """Keep the lines of the steps up to one, bit for bit."""
        content = record.path.read_bytes().split(b"\n")
        steps = list(zip(record.places, (line["step"] for line in record.lines), strict=True))
        kept = [place for place, step in steps if step <= after_step]
        write_atomically(record.path, b"".join(content[place - 1] + b"\n" for place in kept))
        # Damaged lines after one of a later step belong to later steps too, which are dropped in any case.
        first_dropped = next((place for place, step in steps if step > after_step), len(content))
        lost = {place: reason for place, reason in record.damaged.items() if kept and place < first_dropped}
        if lost:
            self.notes.append(f"{record.path.parent}: {dataclasses.replace(record, damaged=lost).note}")

    def metrics(self, line: Metrics) -> None:
        """Append a line; raises TrainingError if the disk is full."""
        self._write("metrics", line)

    def sample(self, line: Metrics) -> None:
        """Append a line; raises TrainingError if the disk is full."""
        self._write("samples", line)

    def sync(self) -> None:
        """Flush all lines to the disk, so that no checkpoint exists without the lines before it."""
        for file in self._files.values():
            os.fsync(file.fileno())

    def close(self) -> None:
        self.sync()
        for file in self._files.values():
            file.close()

    def _write(self, name: str, line: Metrics) -> None:
        rest = memoryview(text_bytes(_line(line)))
        try:
            while rest:  # a disk that fills up takes a part, and refuses the rest
                rest = rest[self._files[name].write(rest) :]
        except OSError as error:
            raise TrainingError(
                f"cannot write {self.paths[name]}: {error.strerror or error}; free some space and resume the run"
            ) from None


def _line(values: Metrics) -> str:
    return json.dumps(json_values(values), ensure_ascii=False) + "\n"


def external_sinks(config: TrackConfig, run_dir: Path, run_name: str, options: Metrics) -> list[Sink]:
    """The optional sinks that a run asks for.

    Args:
        options: the run's options, recorded where the sink has a place for them.

    Raises:
        MissingExtraError: a package that was asked for is not installed.
    """
    sinks: list[Sink] = []
    if config.tensorboard:
        from groundup.record.sinks.tensorboard import TensorBoardSink

        sinks.append(TensorBoardSink(run_dir))
    if config.wandb:
        from groundup.record.sinks.wandb import WandbSink

        name = config.wandb_run_name or run_name
        sinks.append(WandbSink(run_dir, config.wandb_project, name, options, group=config.group))
    return sinks
