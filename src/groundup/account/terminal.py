"""Accounts in the terminal: what a target's name stands for, options as text, and the tables that are printed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from groundup.account.account import Device, account, card_device
from groundup.account.hardware import CARDS, named_card
from groundup.account.params import parameter_count
from groundup.account.presets import PRESETS
from groundup.account.sections import answer, comparison, exercise_section, kept_section, memory_bar, sections
from groundup.account.sweep import parse_sweep, sweep_figure, sweep_rows, sweep_section
from groundup.config import RunConfig, flatten, full_name, load_recipe, override
from groundup.config.recipe import recipes_dir, suggestion
from groundup.display import console as display
from groundup.display.figure import picture_kind, write_picture
from groundup.display.section import Section
from groundup.display.units import size_text
from groundup.errors import ConfigError, FileMissingError
from groundup.record.parent import inheriting_recipe

if TYPE_CHECKING:
    from rich.console import Console

# Distinct without colors too, as in a file.
_CELLS = (("█", "blue"), ("▓", "yellow"), ("▒", "green"), ("░", "magenta"), ("▚", "cyan"))
_FREE = "·"


def find_run(target: str) -> RunConfig:
    """The config of the run that a target names: a preset, a shipped recipe, a recipe's file, or a run's folder.

    Raises:
        FileMissingError: none of them; the nearest name is suggested.
    """
    if target in PRESETS:
        return PRESETS[target][1]
    path = Path(target)
    if os.path.isdir(path):
        if not (path / "config.toml").is_file():
            raise FileMissingError(f"{target or '.'} is a folder without config.toml; expected the folder of a run")
        return load_recipe(str(path / "config.toml"))
    recipes = {recipe.stem for recipe in recipes_dir().glob("*.toml")}
    if target in recipes or path.suffix == ".toml" or os.path.isfile(path):
        return inheriting_recipe(target)
    raise FileMissingError(f"no preset, recipe or run {target!r}{suggestion(target, {*PRESETS, *recipes})}")


def option_change(name: str, value: str) -> dict[str, Any]:
    """One option, by its full or short name, as a value of its type.

    Raises:
        ConfigError: no such option, or a value of another type.
    """
    full = full_name(name.strip().replace("-", "_"))
    now = 0.0 if (default := flatten(RunConfig())[full]) is None else default
    try:
        if isinstance(now, bool):
            return {full: {"true": True, "false": False}[value.lower()]}
        if isinstance(now, int):
            return {full: int(value.replace("_", ""))}
        return {full: float(value) if isinstance(now, float) else value}
    except (ValueError, KeyError):
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(now)]
        raise ConfigError(f"{full} = {value!r}; expected {kind}") from None


def option_changes(options: Mapping[str, Any], pairs: Sequence[str]) -> dict[str, Any]:
    """The options that are not None, and those in texts NAME=VALUE.

    Raises:
        ConfigError: a text of another form, or as `option_change`.
    """
    changes = {name: value for name, value in options.items() if value is not None}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}; expected NAME=VALUE, such as d_ff=1024")
        changes |= option_change(name, value)
    return changes


def account_of(
    target: str, changes: Mapping[str, Any], device_for: Callable[[RunConfig], Device | None], **options: Any
) -> dict[str, Any]:
    """The account of a target's run with changed options.

    Args:
        device_for: the device that a config is planned on.
        options: further arguments of `account`.

    Raises:
        ConfigError: a result is too large for a float; or as `account`.
    """
    config = override(find_run(target), changes)
    try:
        return account(target, config, device=device_for(config), **options)
    except OverflowError:
        raise ConfigError(f"{target}: a result is beyond 1e308; expected smaller sizes, counts and times") from None


def named_device(name: str, config: RunConfig) -> Device:
    """A card by its name, at the precision of a run."""
    return card_device(named_card(name), config.train.precision, config.train.matmul_precision)


def check_targets(
    targets: Sequence[str], *, compare: bool, sweep: str | None, plot: Path | None, one_run: bool
) -> None:
    """Refuse too many or too few targets, and flags that contradict each other.

    Args:
        one_run: a flag is given that describes a single run.

    Raises:
        ConfigError: as described.
    """
    if len(targets) != (2 if compare else 1):
        expected = "two targets" if compare else "one target, or two with --compare"
        found = f"{len(targets)} targets ({' '.join(targets)})" if targets else "no target"
        raise ConfigError(f"{found}; expected {expected}")
    if (compare or sweep) and one_run:
        raise ConfigError("--exercise and --kept describe one run; leave out --compare and --sweep")
    if compare and sweep:
        raise ConfigError("--compare and --sweep both make columns; give one of them")
    if plot is not None and sweep is None:
        raise ConfigError("--plot draws a sweep; give --sweep too, such as --sweep context_length=256,1024,4096")


def print_sweep(
    target: str, text: str, plot: Path | None, one: Callable[..., dict[str, Any]], *, json_output: bool
) -> None:
    """Print, and draw, the cost of a run at several values of an option.

    Args:
        text: option and values, as NAME=VALUE,VALUE.
        plot: picture to draw.
        one: makes the account of a target with changed options.
    """
    name, values = parse_sweep(text)
    if plot is not None:
        picture_kind(plot)
    changes = [option_change(name, value) for value in values]
    rows = sweep_rows([one(target, **change) for change in changes], [v for change in changes for v in change.values()])
    if plot is not None:
        write_picture(sweep_figure(target, name, rows), plot)
    if json_output:
        print_json({"name": target, "option": name, "rows": rows})
        return
    console = display.make_console()
    display.print_section(console, *sweep_section(name, rows))
    if plot is not None:
        console.print(f"drawn into {plot}", markup=False)


def print_account(documents: Sequence[dict[str, Any]], *, kept: bool) -> None:
    """Print the account of a run, or a comparison of two.

    Args:
        kept: list the saved activations as well.
    """
    console = display.make_console()
    if len(documents) == 2:
        display.print_section(console, *comparison(*documents))
    else:
        document = documents[0]
        for section in sections(document):
            display.print_section(console, *section)
            if section.title.startswith("memory"):
                _print_bar(console, document)
        if kept:
            display.print_section(console, *kept_section(document))
        if "exercise" in document:
            display.print_section(console, *exercise_section(document))
        console.print(answer(document))
        console.print()
    for convention in documents[0]["conventions"]:
        console.print(convention, style="dim")


def _print_bar(console: Console, document: dict[str, Any]) -> None:
    """Print the memory as a bar, as a part of the device's memory if there is a device."""
    width = min(72, console.width - 4)
    bar, legend = Text("  "), Text("  ")
    parts = memory_bar(document, width)
    for (name, cells), (cell, colour) in zip(parts, _CELLS, strict=False):
        bar.append(cell * cells, style=colour)
        legend.append(cell, style=colour).append(f" {name}  ")
    memory, needed = (document.get("device") or {}).get("memory"), document["memory"]["needed"]
    if memory and needed > memory:
        legend.append(f"{size_text(needed - memory)} more than there are", style="bold")
    elif memory:
        free = max(0, width - sum(cells for _, cells in parts))
        bar.append(_FREE * free, style="dim")
        legend.append(_FREE, style="dim").append(f" free of {size_text(memory)}")
    console.print(bar, no_wrap=True, crop=True, soft_wrap=True)
    console.print(legend)
    console.print()


def print_json(document: object) -> None:
    """Print strict JSON, which has neither NaN nor infinity."""
    print(json.dumps(document, indent=1, allow_nan=False))


def print_devices(*, json_output: bool) -> None:
    """Print the known cards: peak FLOP/s, memory, bandwidth, source."""
    if json_output:
        print_json([dataclasses.asdict(card) for card in CARDS])
        return
    rows = []
    for card in CARDS:
        peaks = [f"{peak:,.4g}" if peak else "" for peak in (card.fp32, card.tf32, card.bf16 or card.fp16)]
        sizes = card.memory if isinstance(card.memory, tuple) else (card.memory,)
        rows.append((card.key, *peaks, " or ".join(f"{size:g}" for size in sizes), f"{card.bandwidth:,}", card.source))
    header = ("device", "fp32", "tf32", "bf16", "GB", "GB/s", "source")
    note = (
        "Dense peaks in TFLOP/s; fp32 is without tensor cores; v100 and t4 have fp16 instead of bf16. Of several "
        "sizes the smallest counts. The cpu is measured when it is asked for."
    )
    display.print_section(display.make_console(), *Section("devices", header, rows, note))


def print_presets() -> None:
    """Print the presets and their parameters."""
    rows = [(name, f"{parameter_count(run.model):,}", about) for name, (about, run) in PRESETS.items()]
    note = "Also: the name or file of a recipe, or the folder of a run. `groundup account --help` shows the options."
    display.print_section(display.make_console(), *Section("presets", ("name", "parameters", "what it is"), rows, note))
