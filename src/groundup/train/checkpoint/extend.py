"""Longer runs: the checkpoint from which a run goes on that has got more steps.

A schedule whose learning rates do not depend on its length is extended: the run becomes the longer one, bit for bit.
Any finished run may get a second stage with its own schedule.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from groundup.config import RunConfig, flatten, override
from groundup.config.names import effect_of
from groundup.errors import ConfigError
from groundup.optim import last_shared_step
from groundup.optim.schedule import last_step_of_any_length
from groundup.record.run import RunDirectory
from groundup.train.checkpoint.folder import read_state
from groundup.train.state import TrainState

_STEPS = "train.max_iters"
_STAGE = "optim.stage_"


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


def longer(run: RunDirectory, folder: Path, saved: dict[str, Any], config: RunConfig) -> Start | None:
    """Return where a run goes on that has become longer; None if its changes are others, or none. Only reads.

    Args:
        folder, saved: the latest checkpoint and its state.

    Raises:
        ConfigError: the run cannot become longer.
        CheckpointError: a checkpoint is broken.
    """
    found = {change.option: change for change in changes(options_of(run, saved), config)}
    if found.keys() == {_STEPS} and found[_STEPS].now > found[_STEPS].was:
        return _extended(run, folder, saved, config)
    if not found or not all(name == _STEPS or name.startswith(_STAGE) for name in found):
        return None
    if options_of(run, saved)["optim.stage_from"]:
        raise _no_third_stage(run, saved, list(found.values()))
    return _with_stage(run, folder, saved, config) if "optim.stage_from" in found else None


def _no_third_stage(run: RunDirectory, saved: dict[str, Any], changed: list[Change]) -> ConfigError:
    """The error for another stage of a run that has two, or for other options of the second."""
    options, step = options_of(run, saved), saved["step"]
    begins, ends = options["optim.stage_from"], options[_STEPS]
    new_run = f"begin a new run from its weights with --init {run.path}"
    if step >= ends:
        return ConfigError(
            f"{run.path} has a second stage already, after step {begins:,}, and is finished; a run has no third stage: "
            f"{new_run}"
        )
    told = ", ".join(f"{option} (was {was!r}, now {now!r})" for option, was, now in changed)
    return ConfigError(
        f"{run.path} is in its second stage, at step {step:,} of {ends:,}, which has other options: {told}; resume it "
        f"as it was, take the change on purpose with --adopt-config and these options in place of --then, or {new_run}"
    )


def _with_stage(run: RunDirectory, folder: Path, saved: dict[str, Any], config: RunConfig) -> Start:
    """Return where a run goes on that gets a second stage: at the end of the first."""
    options, step, begins = options_of(run, saved), saved["step"], config.optim.stage_from
    state = TrainState.from_dict(saved)
    if not (step >= options[_STEPS] or state.progress >= 1) or not state.reported:
        raise ConfigError(
            f"{run.path} is not finished: step {step:,} of {options[_STEPS]:,}; a second stage begins at the end of "
            f"the first: resume it without --then, and add the stage after that"
        )
    if begins != step:
        raise ConfigError(f"optim.stage_from = {begins:,}, but {run.path} ended with step {step:,}; set it to {step}")
    changed = changes(options, config)
    steps, schedule = config.train.max_iters, config.optim.stage_schedule
    told = f"a second stage of {steps - step:,} steps ({schedule}) follows step {step:,}"
    return Start(folder, with_changes(saved, config, changed) | {"progress": step / steps}, changed, told)


def _extended(run: RunDirectory, folder: Path, saved: dict[str, Any], config: RunConfig) -> Start:
    """Return where a run goes on that differs only by more steps.

    It is the newest checkpoint until which the longer schedule has the same learning rates, so that the run becomes
    what it would have been with that length from the start, bit for bit.
    """
    options = options_of(run, saved)
    was, now = options[_STEPS], config.train.max_iters
    refused = f"cannot extend {run.path} from {was:,} to {now:,} steps"
    instead = f"begin a new run from its weights with --init {run.path}"
    if not config.optim.stage_from:
        instead = f"add --then linear, wsd or constant for a second stage after step {was:,}, or {instead}"
    by_time = [name for name in ("train.finish_schedule", "train.minutes") if options[name]]
    if by_time:
        raise ConfigError(
            f"{refused}: with {by_time[0]} its learning rates followed the time, and no longer run would have "
            f"had them; {instead}"
        )
    in_rates = last_shared_step(was, config.optim)
    shared = min(in_rates, last_step_of_any_length(override(config, {_STEPS: was})))
    if not in_rates:
        schedule = config.optim.stage_schedule if config.optim.stage_from else config.optim.schedule
        raise ConfigError(f"{refused}: a longer {schedule} schedule would have had other learning rates; {instead}")
    for step in reversed(run.steps()):
        place = run.step_folder(step)
        state = saved if place == folder else read_state(place)
        own = options_of(run, state)
        changed = changes(own, config)
        same = step <= min(saved["step"], last_step_of_any_length(override(config, {_STEPS: own[_STEPS]})))
        if not same or any(change.option != _STEPS for change in changed):
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
    what = "its learning rate decays" if shared == in_rates else "its weights are averaged"
    raise ConfigError(
        f"{refused}: {what} after step {shared:,}, and no checkpoint from before is left (there are {left}); {instead}"
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
