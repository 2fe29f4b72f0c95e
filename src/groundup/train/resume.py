"""Going on from a checkpoint, and only from one that belongs to the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from groundup.config import RunConfig, changed_options, flatten
from groundup.errors import CheckpointError, ConfigError
from groundup.train.checkpoint import read_model, read_optimizer, read_state
from groundup.train.distributed import Ranks
from groundup.train.run_directory import RunDirectory
from groundup.train.state import TrainState

# What may differ when a run goes on: where it runs and on how many ranks, what it shows, how often it measures. All
# else decides the numbers it computes.
_FREE = (
    "name", "runs_dir", "data.train", "data.valid", "data.vocab", "data.merges", "data.micro_batch_size",
    "train.device", "train.parallel", "train.attention", "train.kernels", "train.compile",
    "train.activation_checkpointing", "train.log_interval", "train.eval_", "train.checkpoint_interval",
    "train.checkpoint_format", "train.keep_checkpoints", "train.background_checkpoints",
    "train.max_minutes", "train.finish_schedule", "train.ratio_interval", "train.spike_factor", "train.peak_tflops",
    "train.profile", "sample.", "track.",
)  # fmt: skip


def restore(
    run: RunDirectory,
    config: RunConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainState,
    identity: dict[str, Any],
    ranks: Ranks | None = None,
) -> bool:
    """Load the run's latest checkpoint into model, optimizer and state, and make it the run's newest.

    All ranks must call it; the first one says which checkpoint it is.

    Returns:
        False if the run has no checkpoint yet, so that it has to begin at step 0.

    Raises:
        FileMissingError: there is no such run.
        ConfigError: an option that decides the result has changed.
        CheckpointError: the checkpoint is broken, or was made on other data.
    """
    ranks = ranks or Ranks()
    found = None
    with ranks.meeting():
        if ranks.is_main:
            found = latest_checkpoint(run, config, identity)
            if found is None:
                run.rewind(0, None)
    step = ranks.same(found and found[1]["step"])
    if step is None:
        return False
    folder = run.step_folder(step)
    with ranks.meeting():
        saved = read_state(folder)
        check_data(folder, saved, identity)
        read_model(folder, model)
        read_optimizer(folder, model, optimizer, saved)
    for name, value in TrainState.from_dict(saved).__dict__.items():
        setattr(state, name, value)
    if ranks.is_main:
        run.rewind(state.step, state.best_step)
    if saved.get("evaluated_on") != identity["evaluated_on"]:
        state.best_val_loss = state.best_step = None  # losses on other windows cannot be compared
    return True


def latest_checkpoint(
    run: RunDirectory, config: RunConfig, identity: dict[str, Any]
) -> tuple[Path, dict[str, Any]] | None:
    """Folder and state of the checkpoint that a run would go on from; None if it has none yet. Only reads.

    Raises:
        FileMissingError, ConfigError, CheckpointError: as for :func:`restore`.
    """
    run = RunDirectory.open(run.path)
    check_unchanged(run, config)
    if not run.steps():
        return None
    folder = run.checkpoint("latest")
    saved = read_state(folder)
    check_data(folder, saved, identity)
    return folder, saved


def check_data(folder: Path, saved: dict[str, Any], identity: dict[str, Any]) -> None:
    """Refuse a checkpoint that was made on other data, by its state."""
    for key, what in (("dataset_sha256", "data.train"), ("tokenizer_sha256", "the tokenizer")):
        if saved.get(key) != identity[key]:
            raise CheckpointError(
                f"{what} is not what {folder} was trained on (SHA-256 {str(saved.get(key))[:12]}…, now "
                f"{str(identity[key])[:12]}…); restore it, or start a new run"
            )


def check_unchanged(run: RunDirectory, config: RunConfig) -> None:
    """Refuse to resume under options that would make another run of it."""
    if changed := changed_options(flatten(run.config), flatten(config), _FREE):
        raise ConfigError(
            f"cannot resume {run.path} with other options: {', '.join(changed)}; "
            f"resume it as it was, or start a new run"
        )
