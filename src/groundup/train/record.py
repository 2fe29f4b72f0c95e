"""Opening what a run leaves behind while it goes on: the run directory, the sinks, and the checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from groundup.config import RunConfig, TrainConfig, flatten
from groundup.errors import GroundupError, TrainingError
from groundup.record.run import RunDirectory
from groundup.record.sinks import Display, JsonlSink, Sinks, external_sinks
from groundup.train.checkpoint.gathered import RankedCheckpoints
from groundup.train.checkpoint.writer import CheckpointWriter
from groundup.train.environment import costs, environment
from groundup.train.ranks.collective import Ranks
from groundup.train.state import TrainState

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer


class KeptLines(NamedTuple):
    """The last steps whose lines stay in the record when a session begins; -1 for none."""

    metrics: int
    samples: int


def kept_lines(state: TrainState, *, resumed: bool) -> KeptLines:
    """The lines that a state vouches for: those of its step are written again where they are still due."""
    if not resumed:
        return KeptLines(-1, -1)
    return KeptLines(state.step - (state.due_line is not None), state.step - state.due_sample)


def open_record(
    run: RunDirectory,
    config: RunConfig,
    *,
    device: str,
    tokenizer: Tokenizer | None,
    display: Display,
    ranks: Ranks,
    kept: KeptLines,
) -> tuple[Sinks, CheckpointWriter | RankedCheckpoints]:
    """The sinks and checkpoints of a run; it is the first rank's, and the others only help with the checkpoints.

    Args:
        kept: the lines that stay in the record.
    """
    sinks, writer = Sinks([]), None
    with ranks.error_barrier():
        if ranks.is_main:
            with _errors_of(run):
                run.create(config, environment(device) | {"ranks": ranks.size} | costs(config.model))
                if tokenizer is not None:
                    tokenizer.save(run.tokenizer_dir)
                run.sweep()
                run.prune(config.train.keep_checkpoints)
                extra = external_sinks(config.track, run.path, config.name, flatten(config))
                jsonl = JsonlSink(run.path, kept.metrics, kept.samples)
            for note in jsonl.notes:
                display.note(note)
            sinks, writer = Sinks([jsonl, *extra, display]), _writer(run, config.train, jsonl)
    sharded = config.train.checkpoint_format == "sharded"
    if writer is not None and ranks.size == 1 and not sharded:
        return sinks, writer
    return sinks, RankedCheckpoints(writer, ranks, sharded=sharded)


@contextmanager
def _errors_of(run: RunDirectory) -> Iterator[None]:
    # A full disk does not say which file it was, and the other ranks hear of our own errors only.
    try:
        yield
    except GroundupError:
        raise
    except OSError as error:
        raise TrainingError(
            f"cannot write {run.path}: {error.strerror or error}; free some space or mend the permissions, and start "
            f"again"
        ) from None


def _writer(run: RunDirectory, config: TrainConfig, record: JsonlSink) -> CheckpointWriter:
    return CheckpointWriter(
        run, keep=config.keep_checkpoints, background=config.background_checkpoints, sync_record=record.sync
    )
