"""Sinks: where a run's metrics and samples go. Always JSONL; W&B and TensorBoard on request."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from groundup.config import TrackConfig
from groundup.display.display import Display, Metrics, Silent, Sink
from groundup.record.metrics import read_jsonl
from groundup.record.sinks.jsonl import JsonlSink

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
