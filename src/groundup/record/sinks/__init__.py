"""Where a run's metrics and samples go: always JSONL, and on request W&B, TensorBoard and the terminal."""

from pathlib import Path

from groundup.config import TrackConfig
from groundup.record import read_jsonl
from groundup.record.sinks.jsonl import JsonlSink
from groundup.record.sinks.sink import Display, Metrics, Silent, Sink, Sinks

__all__ = ["Display", "JsonlSink", "Metrics", "Silent", "Sink", "Sinks", "external_sinks", "read_jsonl"]


def external_sinks(config: TrackConfig, run_dir: Path, run_name: str, options: Metrics) -> list[Sink]:
    """The optional sinks a run asks for.

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
