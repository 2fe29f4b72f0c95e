"""Going on from a checkpoint, and only from one that belongs to the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from groundup.config import RunConfig, flatten
from groundup.data.shards import TokenShards
from groundup.errors import CheckpointError, ConfigError
from groundup.record.run import RunDirectory
from groundup.train.checkpoint.folder import (
    FORMAT,
    VERSION,
    check_hashes,
    read_model,
    read_optimizer,
    read_state,
    write_state,
)
from groundup.train.checkpoint.options import Change, adopted_changes, other_changes
from groundup.train.ranks.collective import Ranks
from groundup.train.state import TrainState


def identity_of(config: RunConfig, train: TokenShards, valid: TokenShards | None) -> dict[str, Any]:
    """What a checkpoint says of the run that it belongs to: entries of ``state.json``."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "dataset_sha256": train.sha256,
        "tokenizer_sha256": train.tokenizer_sha256,
        "evaluated_on": [valid.sha256 if valid else None, config.train.eval_windows],
        "options": flatten(config),
    }


def restore(
    run: RunDirectory,
    config: RunConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainState,
    identity: dict[str, Any],
    ranks: Ranks | None = None,
    *,
    adopt: bool = False,
    note: Callable[[str], object] = lambda text: None,
) -> bool:
    """Load the run's latest checkpoint into model, optimizer and state, and make it the run's newest.

    All ranks must call it; the first one says which checkpoint it is.

    Args:
        adopt: take over changed options that decide the result. They are noted in the state, and at once in the
            checkpoint, so that the next session finds no change.
        note: is told of options that differ and do not change the training.

    Returns:
        False if the run has no checkpoint yet, so that it has to begin at step 0.

    Raises:
        FileMissingError: there is no such run.
        ConfigError: an option that decides the result has changed.
        CheckpointError: the checkpoint is broken, or was made on other data.
    """
    ranks = ranks or Ranks()
    found = None
    with ranks.error_barrier():
        if ranks.is_main:
            found = latest_checkpoint(run, config, identity, adopt=adopt)
            if found is None:
                run.rewind(0, None)
            else:
                if found.adopted:
                    write_state(found.folder, found.state)
                if found.others:
                    note(found.others)
    step = ranks.broadcast(found and found.state["step"])
    if step is None:
        return False
    folder = run.step_folder(step)
    with ranks.error_barrier():
        saved = read_state(folder)
        check_data(folder, saved, identity)
        check_hashes(folder, saved, rank=ranks.rank, size=ranks.size)
    with ranks.error_barrier():
        read_model(folder, model)
        read_optimizer(folder, model, optimizer, saved)
    for name, value in TrainState.from_dict(saved).__dict__.items():
        setattr(state, name, value)
    if ranks.is_main:
        run.rewind(state.step, state.best_step)
    if saved.get("evaluated_on") != identity["evaluated_on"]:
        state.best_val_loss = state.best_step = None  # losses on other windows cannot be compared
    return True


class Latest(NamedTuple):
    """The checkpoint that a run would go on from."""

    folder: Path
    state: dict[str, Any]
    """Of the checkpoint, with the adopted options in place of its own."""
    adopted: list[Change]
    others: str
    """A note on options that differ and do not change the training."""


def latest_checkpoint(
    run: RunDirectory, config: RunConfig, identity: dict[str, Any], *, adopt: bool = False
) -> Latest | None:
    """The checkpoint that a run would go on from; None if it has none yet. Only reads.

    Raises:
        FileMissingError, ConfigError, CheckpointError: as for :func:`restore`.
    """
    run = RunDirectory.open(run.path)
    if not run.steps():
        adopted_changes(run, config, None, {}, adopt=adopt)
        return None
    folder = run.checkpoint("latest")
    saved = read_state(folder)
    adopted, others = adopted_changes(run, config, folder, saved, adopt=adopt), other_changes(saved, config)
    check_data(folder, saved, identity)
    if adopted and saved["step"] >= config.train.max_iters:
        names = ", ".join(change.option for change in adopted)
        raise ConfigError(f"{run.path} is finished: no step is left that {names} would change; raise --max_iters, too")
    if adopted:
        log = [{"step": saved["step"], **change._asdict()} for change in adopted]
        saved |= {"options": identity["options"], "adopted": saved.get("adopted", []) + log}
    return Latest(folder, saved, adopted, others)


def check_data(folder: Path, saved: dict[str, Any], identity: dict[str, Any]) -> None:
    """Refuse a checkpoint that was made on other data, by its state."""
    for key, what in (("dataset_sha256", "data.train"), ("tokenizer_sha256", "the tokenizer")):
        if saved.get(key) != identity[key]:
            raise CheckpointError(
                f"{what} is not what {folder} was trained on (SHA-256 {str(saved.get(key))[:12]}…, now "
                f"{str(identity[key])[:12]}…); restore it, or start a new run"
            )
