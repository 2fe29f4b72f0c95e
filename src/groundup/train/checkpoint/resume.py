"""Resuming from a checkpoint, if it belongs to the run: same data, same options that decide the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from groundup.config import RunConfig, flatten, save_toml
from groundup.config.names import FIXED, effect_of
from groundup.errors import CheckpointError, ConfigError
from groundup.optim.average import is_averaged, take_back_weights
from groundup.record.run import RunDirectory
from groundup.train.checkpoint.extend import Change, Start, changes, longer, options_of, with_changes
from groundup.train.checkpoint.folder import (
    check_hashes,
    read_model,
    read_optimizer,
    read_state,
    write_state,
)
from groundup.train.state import TrainState

if TYPE_CHECKING:
    from groundup.train.build import Trainer

_OF_SESSION = (
    "name", "runs_dir", "data.train", "data.valid", "data.vocab", "data.merges",
    "train.device", "train.max_minutes", "train.finish_schedule", "train.stop_at", "train.profile",
)  # fmt: skip


def restore(trainer: Trainer, *, adopt: bool = False, note: Callable[[str], object] = lambda text: None) -> bool:
    """Load the run's latest checkpoint into the trainer's model, optimizer and state, and make it the run's newest.

    All ranks must call it; the first one decides which checkpoint it is.

    Args:
        adopt: take over changed options that decide the result. They are recorded in the state, and at once in the
            checkpoint, so that the next session finds no change. Without it a run may still become longer
            (:mod:`groundup.train.checkpoint.extend`).
        note: is told of a longer run, and of options that differ and do not change the training.

    Returns:
        False if the run has no checkpoint yet, so that it has to begin at step 0.

    Raises:
        FileMissingError: the run does not exist.
        ConfigError: an option that decides the result has changed.
        CheckpointError: the checkpoint is broken, or was made on other data.
    """
    run, ranks, identity = trainer.run, trainer.ranks, trainer.identity
    found = None
    with ranks.error_barrier():
        if ranks.is_main:
            found = latest_checkpoint(run, trainer.config, identity, adopt=adopt)
            if found is None:
                run.rewind(0, None)
            else:
                _begin_at(found.start, run, trainer.config)
                for line in filter(None, (found.start.told, found.others)):
                    note(line)
    step = ranks.broadcast(found and found.start.state["step"])
    if step is None:
        return False
    folder = run.step_folder(step)
    with ranks.error_barrier():
        saved = read_state(folder)
        check_data(folder, saved, identity)
        check_hashes(folder, saved, rank=ranks.rank, size=ranks.size)
    with ranks.error_barrier():
        read_model(folder, trainer.model)
        read_optimizer(folder, trainer.model, trainer.optimizer, saved)
    trainer.state = state = TrainState.from_dict(saved)
    if state.averaged:  # a run that has become longer, or no longer averages, begins anew with the weights themselves
        keep = is_averaged(state.step, state.progress, trainer.config)
        take_back_weights(trainer.optimizer, keep=keep)
        state.averaged *= keep
    if ranks.is_main:
        run.rewind(state.step, state.best_step)
    if saved.get("evaluated_on") != identity["evaluated_on"]:
        state.best_val_loss = state.best_step = None  # losses on other windows cannot be compared
    return True


def _begin_at(start: Start, run: RunDirectory, config: RunConfig) -> None:
    """Write what a run takes over, so that a session after a kill begins in the same way.

    A run that has become longer deletes what comes after its start, so that this must be readable, and the options and
    the state must say so before.
    """
    if start.told:
        check_hashes(start.folder, start.state)
        save_toml(config, run.config_file)
        run.forget_summary()
    if start.changes:
        write_state(start.folder, start.state)


class Latest(NamedTuple):
    """The checkpoint that a run would resume from."""

    start: Start
    others: str
    """A note on options that differ and do not change the training."""


def latest_checkpoint(
    run: RunDirectory, config: RunConfig, identity: dict[str, Any], *, adopt: bool = False
) -> Latest | None:
    """Return the checkpoint that a run would resume from; None if it has none yet. Only reads.

    Raises:
        FileMissingError, ConfigError, CheckpointError: as for :func:`restore`.
    """
    run = RunDirectory.open(run.path)
    if not run.steps():
        check_init(run, {}, config)
        adopted_changes(run, config, None, {}, adopt=adopt)
        return None
    folder = run.checkpoint("latest")
    saved = read_state(folder)
    check_init(run, saved, config)
    others = other_changes(saved, config)
    if not adopt and (start := longer(run, folder, saved, config)) is not None:
        check_data(start.folder, start.state, identity)
        return Latest(start, others)
    adopted = adopted_changes(run, config, folder, saved, adopt=adopt)
    check_data(folder, saved, identity)
    ended = saved.get("progress", 0) >= 1 if config.train.minutes else saved["step"] >= config.train.max_iters
    if adopted and ended:
        names = ", ".join(change.option for change in adopted)
        raise ConfigError(f"{run.path} is finished: no step is left that {names} would change; raise --max_iters, too")
    if adopted:
        saved = with_changes(saved, config, adopted)
    return Latest(Start(folder, saved, adopted), others)


def check_init(run: RunDirectory, saved: dict[str, Any], config: RunConfig) -> None:
    """Refuse other initial weights for a run that has begun, by its state."""
    was, now = options_of(run, saved)["train.init"], config.train.init
    if was != now:
        began = f"with the weights of {was}" if was else "with weights from its seed"
        raise ConfigError(f"train.init = {now!r}, but {run.path} began {began}; leave --init out, or start a new run")


def check_data(folder: Path, saved: dict[str, Any], identity: dict[str, Any]) -> None:
    """Refuse a checkpoint that was made on other data, by its state."""
    for key, what in (("dataset_sha256", "data.train"), ("tokenizer_sha256", "the tokenizer")):
        if saved.get(key) != identity[key]:
            raise CheckpointError(
                f"{what} is not what {folder} was trained on (SHA-256 {str(saved.get(key))[:12]}…, now "
                f"{str(identity[key])[:12]}…); restore it, or start a new run"
            )


def other_changes(saved: Mapping[str, Any], config: RunConfig) -> str:
    """Return a note on options that differ from the checkpoint's and do not change the training; empty if none do.

    They may differ, but an edit or a damaged config.toml should be seen. Options of a session, and paths, are left out.
    """
    inside = saved.get("options")
    known = flatten(RunConfig()) | dict(inside or {})
    found = [
        f"{name} {known[name]!r} -> {value!r}"
        for name, value in flatten(config).items()
        if inside is not None and effect_of(name) != "result" and not _is_of_session(name) and known[name] != value
    ]
    return f"options that are not what they were at the checkpoint: {', '.join(found)}" if found else ""


def _is_of_session(name: str) -> bool:
    return name in _OF_SESSION or name.startswith("track.")


def adopted_changes(
    run: RunDirectory, config: RunConfig, folder: Path | None, saved: dict[str, Any], *, adopt: bool
) -> list[Change]:
    """Return the changes that a session adopts; none without ``adopt``.

    Args:
        folder: of the checkpoint; None if there is none yet.
        saved: its state. One of an older version has no options, and the run's config.toml is compared instead.
        adopt: take over what can be.

    Raises:
        ConfigError: options that decide the result have changed, and are not or cannot be taken over.
    """
    written = flatten(run.config)
    inside = saved.get("options")
    found = changes(options_of(run, saved), config)
    stuck = [change for change in found if not adopt or change.option in FIXED]
    if not stuck:
        return found
    in_file = [change for change in stuck if inside is not None and written.get(change.option) == change.now]
    given = [change for change in stuck if change not in in_file]
    told = [f"{option}: {was!r} in the checkpoint, {now!r} in config.toml" for option, was, now in in_file]
    told += [f"{option} (was {was!r}, now {now!r})" for option, was, now in given]
    fixed = [change.option for change in stuck if change.option in FIXED]
    mend = (
        "resume it as it was, or start a new run"
        if fixed
        else ("resume it as it was, take the change on purpose with --adopt-config, or start a new run")
    )
    why = f" ({', '.join(fixed)}: the weights would not fit)" if fixed and adopt else ""
    where = run.path if folder is None else folder
    raise ConfigError(f"cannot resume {where} with other options: {', '.join(told)}{why}; {mend}")
