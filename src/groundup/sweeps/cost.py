"""Predicted cost of trials: FLOPs, memory and time, and a check that they fit on the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from groundup.account.account import share_of_peak
from groundup.account.flops import backward_flops, forward_flops
from groundup.account.memory import step_memory
from groundup.config import RunConfig
from groundup.display.section import Section
from groundup.display.units import flops_text, size_text, time_text
from groundup.errors import ConfigError
from groundup.sweeps.budget import known_vocabulary
from groundup.sweeps.trials import Trial

if TYPE_CHECKING:
    from groundup.account.account import Device


@dataclass(frozen=True)
class Cost:
    """Predicted cost of one trial."""

    flops: int
    """Model FLOPs of the training steps and evaluations."""
    steps: int
    """With a time limit, as many as fit into it on this device."""
    tokens: int
    memory: int
    """Peak bytes of a step, on a CPU with the copy for a background checkpoint."""
    seconds: float | None
    """Elapsed time on this device with nothing else running; None if its peak throughput is unknown."""


def this_device(config: RunConfig) -> Device:
    """The device that a run would use here. Its peak is that of the data sheet, or measured now for a CPU."""
    from groundup.account.account import Device, card_device
    from groundup.account.hardware import find_card
    from groundup.train.device import choose_device, choose_precision, device_name, measured_cpu, total_memory

    name = choose_device(config.train.device)
    precision = choose_precision(config.train.precision, name)
    train = dataclasses.replace(config.train, precision=precision)
    if name == "cpu":
        return measured_cpu(train)
    card = find_card(device_name(name)) if name.startswith("cuda") else None
    if card is not None:
        found = card_device(card, train.precision, train.matmul_precision)
        return dataclasses.replace(found, memory=float(total_memory(name)))
    kind, memory = name.partition(":")[0], float(total_memory(name)) if name.startswith("cuda") else None
    return Device(name, kind, train.precision, None, memory, "no data sheet")


def trial_costs(trials: Sequence[Trial], device: Device | None = None) -> list[Cost]:
    """The cost of each trial.

    Raises:
        ConfigError, FileMissingError: the vocabulary is that of data that does not exist; the trial is named.
    """
    known: dict[tuple[Any, ...], Cost] = {}
    costs = []
    for trial in trials:
        config = trial.config
        # Seeds and learning rates change no cost, so that many trials share one.
        train = dataclasses.replace(config.train, seed=0)
        same = config.model, config.data, train, config.optim.optimizer
        if same not in known:
            known[same] = trial_cost(trial, device)
        costs.append(known[same])
    return costs


def trial_cost(trial: Trial, device: Device | None = None) -> Cost:
    """The cost of one trial.

    Raises:
        ConfigError, FileMissingError: as for :func:`trial_costs`.
    """
    config = trial.config
    try:
        model = config.model
        if not model.vocab_size:
            model = dataclasses.replace(model, vocab_size=known_vocabulary(model.vocab_size, config.data.train))
        micro_batches = config.data.micro_batches()
    except ConfigError as error:
        raise ConfigError(f"trial {trial.name}: {error}") from None
    kind = device.kind if device else "cuda"
    memory = step_memory(
        model,
        config.optim,
        config.train,
        batch_size=config.data.batch_size // micro_batches,
        micro_batches=micro_batches,
        device=kind,
    )
    train = config.train
    evaluations = 1 + -(-train.max_iters // train.eval_interval) if config.data.valid else 0
    sequence = forward_flops(model)
    flops = train.max_iters * config.data.batch_size * (sequence + backward_flops(model))
    flops += evaluations * train.eval_windows * sequence
    share = share_of_peak(dataclasses.replace(config, model=model), device)
    seconds = flops / (device.flops * share) if device and device.flops else None
    steps = train.max_iters
    if train.minutes and seconds:
        steps, flops = max(1, round(steps * 60 * train.minutes / seconds)), round(flops * 60 * train.minutes / seconds)
    if train.minutes:
        seconds = 60 * train.minutes
    elif train.max_minutes:
        limit = 60 * train.max_minutes
        if seconds is not None and seconds > limit:
            flops, steps = round(flops * limit / seconds), max(1, round(steps * limit / seconds))
        seconds = limit if seconds is None else min(seconds, limit)
    return Cost(
        flops=flops,
        steps=steps,
        tokens=steps * config.data.batch_size * model.context_length,
        memory=memory.peak + (memory.checkpoint_copy if kind == "cpu" else 0),
        seconds=seconds,
    )


def too_large(cost: Cost, device: Device, shares: int) -> str:
    """Why a trial cannot run on a device that `shares` trials share; empty if it can."""
    if device.memory is None or cost.memory <= device.memory / shares:
        return ""
    shared = f", shared by {shares} trials" if shares > 1 else ""
    return (
        f"a step needs about {size_text(cost.memory)}, and {device.name} has {size_text(device.memory)}{shared}; make "
        f"the model, the batch or data.micro_batch_size smaller{', or run fewer at once' if shared else ''}"
    )


def check_memory(trials: Sequence[Trial], costs: Sequence[Cost], device: Device, shares: int) -> None:
    """Refuse trials that do not fit into the device's memory.

    Raises:
        ConfigError: there are some; the first is named with its estimate.
    """
    reasons = {t.name: why for t, cost in zip(trials, costs, strict=True) if (why := too_large(cost, device, shares))}
    if reasons:
        name, why = next(iter(reasons.items()))
        others = f"; {len(reasons) - 1} more trials are too large" if len(reasons) > 1 else ""
        raise ConfigError(f"trial {name} does not fit: {why}{others}")


def cost_section(trials: Sequence[Trial], costs: Sequence[Cost], done: Collection[str] = ()) -> Section:
    """A table of the settings with their cost.

    Args:
        done: names of trials that have ended already.
    """
    settings: dict[str, list[tuple[Trial, Cost]]] = {}
    for trial, cost in zip(trials, costs, strict=True):
        settings.setdefault(trial.setting, []).append((trial, cost))
    rows = []
    for name, members in settings.items():
        trial, cost = members[0]
        ended = sum(member.name in done for member, _ in members)
        rows.append(
            (
                f"{name}{' (baseline)' if trial.is_baseline else ''}",
                f"{len(members)}" + (f" ({ended} done)" if ended else ""),
                f"{cost.steps:,}",
                f"{cost.tokens:,}",
                flops_text(cost.flops),
                size_text(cost.memory),
                "n/a" if cost.seconds is None else time_text(cost.seconds),
            )
        )
    left = [cost for trial, cost in zip(trials, costs, strict=True) if trial.name not in done]
    seconds = [cost.seconds for cost in left if cost.seconds is not None]
    note = f"{len(left)} of {len(trials)} runs to make: {flops_text(sum(cost.flops for cost in left))}"
    if left and len(seconds) == len(left):
        note += f", about {time_text(sum(seconds))} one after the other on this machine in its current state"
    return Section("settings", ("setting", "seeds", "steps", "tokens", "FLOPs", "memory", "a run"), rows, f"{note}.")
