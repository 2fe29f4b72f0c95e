"""What the cells of a plan cost, before any of them starts; and which of them no device here can hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from groundup.account.account import share_of_peak
from groundup.account.flops import forward_flops
from groundup.account.memory import step_memory
from groundup.account.time import step_flops
from groundup.config import RunConfig, override
from groundup.display.section import Section
from groundup.display.units import flops_text, size_text, time_text
from groundup.errors import ConfigError
from groundup.sweeps.budget import known_vocabulary
from groundup.sweeps.trials import Cell

if TYPE_CHECKING:
    from groundup.account.account import Device


@dataclass(frozen=True)
class Cost:
    """Of one cell."""

    flops: int
    """Of its training steps and, where their size is known, its evaluations."""
    steps: int
    """Of a run that the clock ends, as many as there is time for on the device at hand."""
    tokens: int
    memory: int
    """Bytes at the peak of a step, with the copy of a checkpoint where it lies in the same memory."""
    seconds: float | None
    """On the device at hand, with nothing else on it; None where its peak is not known."""


def this_device(config: RunConfig) -> Device:
    """The device that a run would take here, its peak from the data sheet, or measured now for a CPU."""
    from groundup.account.account import Device, card_device
    from groundup.account.hardware import find_card
    from groundup.train.build import choose_device, choose_precision
    from groundup.train.preview.dry_run import measured_cpu
    from groundup.train.preview.measure import device_name, total_memory

    name = choose_device(config.train.device)
    train = override(config, {"train.precision": choose_precision(config.train.precision, name)}).train
    if name == "cpu":
        return measured_cpu(train)
    card = find_card(device_name(name)) if name.startswith("cuda") else None
    if card is not None:
        found = card_device(card, train.precision, train.matmul_precision)
        return dataclasses.replace(found, memory=float(total_memory(name)))
    kind, memory = name.partition(":")[0], float(total_memory(name)) if name.startswith("cuda") else None
    return Device(name, kind, train.precision, None, memory, "no data sheet")


def cell_cost(cell: Cell, device: Device | None = None) -> Cost:
    """The cost of a cell.

    Raises:
        ConfigError, FileMissingError: its vocabulary is taken from data that is not there; the cell is named.
    """
    config = cell.config
    try:
        rows = known_vocabulary(config.model.vocab_size, config.data.train)
        model = dataclasses.replace(config.model, vocab_size=rows)
        passes = config.data.passes()
    except ConfigError as error:
        raise ConfigError(f"cell {cell.name}: {error}") from None
    kind = device.kind if device else "cuda"
    memory = step_memory(
        model, config.optim, config.train, batch_size=config.data.batch_size // passes, passes=passes, device=kind
    )
    train = config.train
    evaluations = 1 + -(-train.max_iters // train.eval_interval) if config.data.valid else 0
    flops = train.max_iters * step_flops(model, config.optim, config.data.batch_size).model
    flops += evaluations * train.eval_windows * forward_flops(model)
    share = share_of_peak(dataclasses.replace(config, model=model), device)
    seconds = flops / (device.flops * share) if device and device.flops else None
    steps = train.max_iters
    if train.max_minutes:
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
    """Why a cell cannot run on a device that so many cells share; empty if it can."""
    if device.memory is None or cost.memory <= device.memory / shares:
        return ""
    shared = f", shared by {shares} cells" if shares > 1 else ""
    return (
        f"a step needs about {size_text(cost.memory)}, and {device.name} has {size_text(device.memory)}{shared}; make "
        f"the model, the batch or data.micro_batch_size smaller{', or run fewer at once' if shared else ''}"
    )


def check_memory(cells: Sequence[Cell], costs: Sequence[Cost], device: Device, shares: int) -> None:
    """Refuse a plan with cells that the device cannot hold.

    Raises:
        ConfigError: there are some; the first is named with its estimate.
    """
    reasons = {c.name: why for c, cost in zip(cells, costs, strict=True) if (why := too_large(cost, device, shares))}
    if reasons:
        name, why = next(iter(reasons.items()))
        others = f"; {len(reasons) - 1} more cells are too large" if len(reasons) > 1 else ""
        raise ConfigError(f"cell {name} does not fit: {why}{others}")


def cost_section(cells: Sequence[Cell], costs: Sequence[Cost], done: Iterable[str] = ()) -> Section:
    """The cells with their cost, a line for each condition.

    Args:
        done: names of cells that have ended already.
    """
    done = set(done)
    conditions: dict[str, list[tuple[Cell, Cost]]] = {}
    for cell, cost in zip(cells, costs, strict=True):
        conditions.setdefault(cell.condition, []).append((cell, cost))
    rows = []
    for name, members in conditions.items():
        cell, cost = members[0]
        ended = sum(member.name in done for member, _ in members)
        rows.append(
            (
                f"{name}{' (baseline)' if cell.is_baseline else ''}",
                f"{len(members)}" + (f" ({ended} done)" if ended else ""),
                f"{cost.steps:,}",
                f"{cost.tokens:,}",
                flops_text(cost.flops),
                size_text(cost.memory),
                "n/a" if cost.seconds is None else time_text(cost.seconds),
            )
        )
    left = [cost for cell, cost in zip(cells, costs, strict=True) if cell.name not in done]
    seconds = [cost.seconds for cost in left if cost.seconds is not None]
    note = f"{len(left)} of {len(cells)} runs to make: {flops_text(sum(cost.flops for cost in left))}"
    if left and len(seconds) == len(left):
        note += f", about {time_text(sum(seconds))} one after the other on this machine as it is now"
    return Section("cells", ("cell", "seeds", "steps", "tokens", "FLOPs", "memory", "a run"), rows, f"{note}.")
