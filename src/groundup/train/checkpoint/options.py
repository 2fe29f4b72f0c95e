"""The options that a checkpoint was made with, compared with those that its run is resumed with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from groundup.config import RunConfig, flatten
from groundup.config.effects import FIXED, effect_of
from groundup.errors import ConfigError
from groundup.record.run import RunDirectory

_OF_SESSION = (
    "name", "runs_dir", "data.train", "data.valid", "data.vocab", "data.merges",
    "train.device", "train.max_minutes", "train.finish_schedule", "train.profile",
)  # fmt: skip


class Change(NamedTuple):
    """An option that decides the result, and is not what it was."""

    option: str
    was: Any
    now: Any


def changes(before: Mapping[str, Any], config: RunConfig) -> list[Change]:
    """The options that change the result and differ.

    Args:
        before: by full names. One that is missing did not exist yet, and counts as its default.
    """
    known = flatten(RunConfig()) | dict(before)
    return [
        Change(name, known[name], value)
        for name, value in flatten(config).items()
        if effect_of(name) == "result" and known[name] != value
    ]


def other_changes(saved: Mapping[str, Any], config: RunConfig) -> str:
    """A note on options that differ from the checkpoint's and do not change the training; empty if none do.

    They may, but one that a hand or a damaged config.toml has changed should be seen. What a user says anew for each
    session, and where things lie, is left out.
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
    run: RunDirectory, config: RunConfig, folder: Path | None, saved: Mapping[str, Any], *, adopt: bool
) -> list[Change]:
    """The changes that a session takes over on purpose; none without ``adopt``.

    Args:
        folder: of the checkpoint; None if there is none yet.
        saved: its state. One of an older version has no options, and the run's config.toml is compared instead.
        adopt: take over what can be.

    Raises:
        ConfigError: options that decide the result have changed, and are not or cannot be taken over.
    """
    written = flatten(run.config)
    inside = saved.get("options")
    found = changes(written if inside is None else inside, config)
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
