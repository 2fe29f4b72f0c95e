"""Longer runs: the checkpoint from which a run goes on whose schedule has become longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from groundup.config import RunConfig, flatten
from groundup.config.names import effect_of
from groundup.errors import ConfigError
from groundup.optim import last_shared_step
from groundup.record.run import RunDirectory
from groundup.train.checkpoint.folder import read_state

_STEPS = "train.max_iters"


class Change(NamedTuple):
    """An option that decides the result and has changed."""

    option: str
    was: Any
    now: Any


class Start(NamedTuple):
    """The checkpoint from which a run goes on."""

    folder: Path
    state: dict[str, Any]
    """Its state as the run goes on from it."""
    changes: list[Change]
    """Options that it takes over."""
    told: str = ""
    """A line for the user, if the run has become longer: later checkpoints and lines are then replaced."""


def kept_step(config: RunConfig) -> int:
    """Return the step whose checkpoint is kept for a longer run: the last one before wsd decays; 0 if there is none."""
    step = last_shared_step(config.train.max_iters, config.optim)
    return step if step < config.train.max_iters and not config.train.finish_schedule else 0


def longer(run: RunDirectory, folder: Path, saved: dict[str, Any], config: RunConfig) -> Start | None:
    """Return where a run goes on that has become longer; None if its changes are others, or none. Only reads.

    Args:
        folder, saved: the latest checkpoint and its state.

    Raises:
        ConfigError: the run cannot become longer.
        CheckpointError: a checkpoint is broken.
    """
    found = changes(options_of(run, saved), config)
    if [change.option for change in found] == [_STEPS] and found[0].now > found[0].was:
        return extended(run, folder, saved, config)
    return None


def extended(run: RunDirectory, folder: Path, saved: dict[str, Any], config: RunConfig) -> Start:
    """Return where a run goes on that differs only by more steps.

    It is the newest checkpoint until which the longer schedule has the same learning rates, so that the run becomes
    what it would have been with that length from the start, bit for bit.
    """
    options = options_of(run, saved)
    was, now = options[_STEPS], config.train.max_iters
    refused = f"cannot extend {run.path} from {was:,} to {now:,} steps"
    if options["train.finish_schedule"]:
        raise ConfigError(
            f"{refused}: with train.finish_schedule its learning rates followed the time, and no longer run would have "
            f"had them"
        )
    shared = last_shared_step(was, config.optim)
    if not shared:
        raise ConfigError(
            f"{refused}: a longer {config.optim.schedule} schedule would have had other learning rates; only wsd and "
            f"constant can be extended"
        )
    for step in reversed(run.steps()):
        place = run.step_folder(step)
        state = saved if place == folder else read_state(place)
        own = options_of(run, state)
        changed = changes(own, config)
        same_rates = step <= min(saved["step"], last_shared_step(own[_STEPS], config.optim))
        if not same_rates or any(change.option != _STEPS for change in changed):
            continue
        if step >= own[_STEPS]:
            if not state.get("last_report"):  # an older version's: what it replaced is not known
                continue
            state = _without_end(state)
        again = f"; steps {step + 1:,} to {saved['step']:,} are trained again" if step < saved["step"] else ""
        told = f"train.max_iters was {was:,} and is now {now:,}: going on after step {step:,}{again}"
        state = with_changes(state, config, changed) | {"progress": step / now}
        return Start(place, state, changed, told)
    left = ", ".join(map(str, run.steps()))
    raise ConfigError(
        f"{refused}: its learning rate decays after step {shared:,}, and no checkpoint from before is left (there are "
        f"{left})"
    )


def _without_end(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a run's last step as if more steps were to come: its last report is taken back."""
    before = dict(state["last_report"])
    due = {name: before.pop(name) for name in ("metrics", "found")}
    return state | before | {"due_report": due, "last_report": None, "due_line": None, "due_sample": False}


def with_changes(state: dict[str, Any], config: RunConfig, changed: list[Change]) -> dict[str, Any]:
    """Return a checkpoint's state with the options of a run, of which some have changed on purpose."""
    log = [{"step": state["step"], **change._asdict()} for change in changed]
    return state | {"options": flatten(config), "adopted": state.get("adopted", []) + log}


def options_of(run: RunDirectory, saved: dict[str, Any]) -> dict[str, Any]:
    """Return all options of a checkpoint by full names.

    An option that came later has its default. A checkpoint of version 0.1 has none: config.toml is taken.
    """
    inside = saved.get("options")
    return flatten(RunConfig()) | (flatten(run.config) if inside is None else dict(inside))


def changes(before: dict[str, Any], config: RunConfig) -> list[Change]:
    """Return the options that decide the result and differ.

    Args:
        before: all options by full names.
    """
    return [
        Change(name, before[name], value)
        for name, value in flatten(config).items()
        if effect_of(name) == "result" and before[name] != value
    ]
