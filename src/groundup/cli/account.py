"""`groundup account`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, UseAppendAction, arg

from groundup.account.account import Device, account, card_device
from groundup.account.presets import PRESETS
from groundup.cli.parse import call
from groundup.config import RunConfig, flatten, full_name, load_recipe, override
from groundup.config.recipe import recipes_dir, suggestion
from groundup.display.units import parse_count, parse_size
from groundup.errors import ConfigError, FileMissingError

if TYPE_CHECKING:
    from rich.console import Console

# Told apart without colours too, as in a file.
_CELLS = (("█", "blue"), ("▓", "yellow"), ("▒", "green"), ("░", "magenta"), ("▚", "cyan"))
_FREE = "·"
_EXERCISE_MFU = 0.5


def account_verb(arguments: list[str]) -> None:
    """Parse and run."""
    call(_account, arguments, "account")


def _account(
    targets: tuple[str, ...] = (),
    /,
    *,
    context_length: int | None = None,
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    vocab_size: int | None = None,
    optimizer: Literal["adamw", "muon"] | None = None,
    precision: Literal["fp32", "bf16", "auto"] | None = None,
    attention: Literal["flash", "plain"] | None = None,
    kernels: Literal["fast", "plain"] | None = None,
    activation_checkpointing: Annotated[bool, FlagCreatePairsOff] = False,
    set_option: Annotated[UseAppendAction[tuple[str, ...]], arg(name="set")] = (),
    device: str | None = None,
    mfu: float | None = None,
    tokens: str | None = None,
    fit_memory: str | None = None,
    fit_hours: float | None = None,
    compare: Annotated[bool, FlagCreatePairsOff] = False,
    sweep: str | None = None,
    plot: Path | None = None,
    exercise: Annotated[bool, FlagCreatePairsOff] = False,
    kept: Annotated[bool, FlagCreatePairsOff] = False,
    devices: Annotated[bool, FlagCreatePairsOff] = False,
    json_output: Annotated[bool, arg(name="json"), FlagCreatePairsOff] = False,
) -> None:
    """What a run costs, before it starts: parameters, FLOPs, memory, time, and what fits.

    groundup account gpt2-xl --device h200 --tokens 10B

    Args:
        targets: a preset, a recipe (its name or file) or the folder of a run; two of them with --compare. Without any,
            the presets are listed.
        context_length: tokens of a sequence.
        batch_size: sequences of a step.
        micro_batch_size: sequences of a pass.
        vocab_size: rows of the embedding table.
        optimizer: adamw or muon.
        precision: of the matrix products; auto is what the device multiplies fastest.
        attention: fused, which never holds the scores, or plain.
        kernels: fast, with a loss that never holds all logits, or plain.
        activation_checkpointing: make the activations of each block again; where a recipe has it,
            --set activation_checkpointing=false turns it off.
        set_option: any other option of a run, as NAME=VALUE; may be repeated.
        device: a card, such as h200, a100-40gb or rtx4090; or cpu, which is measured now. Without one no time is given,
            and the memory is that of a GPU.
        mfu: the share of the device's peak that training reaches; by default 0.4 of a card's, and what is predicted for
            a step on the cpu.
        tokens: of the whole run, such as 300B; by default the recipe's steps.
        fit_memory: fill so much, such as 80GB or 80GiB, with the largest batch or model.
        fit_hours: fill so much time with tokens, or with the largest model that sees 20 tokens a parameter.
        compare: two targets side by side.
        sweep: NAME=VALUE,VALUE,…: the same for several values of an option.
        plot: draw a sweep into this file (.png, .svg or .pdf).
        exercise: also the course's written exercise: its formulas for activations, AdamW and training time, at half
            of an A100's peak unless --mfu says otherwise.
        kept: list every tensor that is kept for the backward pass.
        devices: list the cards that --device knows: peak, memory, bandwidth, and who says so.
        json_output: print JSON instead of tables.
    """
    if devices:
        _list_devices(json_output=json_output)
        return
    if not targets and not (compare or sweep or json_output):
        _list_presets()
        return
    if len(targets) != (2 if compare else 1):
        expected = "two targets" if compare else "one target, or two with --compare"
        found = f"{len(targets)} targets ({' '.join(targets)})" if targets else "no target"
        raise ConfigError(f"{found}; expected {expected}")
    if (compare or sweep) and (exercise or kept):
        raise ConfigError("--exercise and --kept tell of one run; leave out --compare and --sweep")
    if compare and sweep:
        raise ConfigError("--compare and --sweep both make columns; give one of them")
    if plot is not None and sweep is None:
        raise ConfigError("--plot draws a sweep; give --sweep too, such as --sweep context_length=256,1024,4096")
    options = {
        "model.context_length": context_length, "model.vocab_size": vocab_size, "data.batch_size": batch_size,
        "data.micro_batch_size": micro_batch_size, "optim.optimizer": optimizer, "train.precision": precision,
        "train.attention": attention, "train.kernels": kernels,
        "train.activation_checkpointing": activation_checkpointing or None,
    }  # fmt: skip
    changes = {name: value for name, value in options.items() if value is not None}
    for pair in set_option:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}; expected NAME=VALUE, such as d_ff=1024")
        changes |= _change(name, value)
    rest: dict[str, Any] = {
        "mfu": mfu,
        "tokens": None if tokens is None else parse_count(tokens),
        "fit_memory": None if fit_memory is None else parse_size(fit_memory),
        "fit_hours": fit_hours,
    }

    def one(target: str, **more: Any) -> dict[str, Any]:
        config = override(find(target), changes | more)
        try:
            return account(target, config, device=_device(device, config), **rest)
        except OverflowError:
            raise ConfigError(
                f"{target}: a result is beyond 1e308; expected sizes, counts and times below it"
            ) from None

    if sweep is not None:
        _sweep(targets[0], sweep, plot, one, json_output=json_output)
        return
    documents = [one(target) for target in targets]
    if exercise:
        for target, document in zip(targets, documents, strict=True):
            document["exercise"] = _exercise(override(find(target), changes), _EXERCISE_MFU if mfu is None else mfu)
    if json_output:
        _print_json(documents[0] if len(documents) == 1 else documents)
        return
    _print(documents, kept=kept)


def find(target: str) -> RunConfig:
    """The run that a target names: a preset, a shipped recipe, a recipe's file, or a run's folder.

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
        return load_recipe(target)
    raise FileMissingError(f"no preset, recipe or run {target!r}{suggestion(target, {*PRESETS, *recipes})}")


def _change(name: str, value: str) -> dict[str, Any]:
    """One option by its full or short name, as the type it has."""
    full = full_name(name.strip().replace("-", "_"))
    now = flatten(RunConfig())[full]
    try:
        if isinstance(now, bool):
            return {full: {"true": True, "false": False}[value.lower()]}
        if isinstance(now, int):
            return {full: int(value.replace("_", ""))}
        return {full: float(value) if isinstance(now, float) else value}
    except (ValueError, KeyError):
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(now)]
        raise ConfigError(f"{full} = {value!r}; expected {kind}") from None


def _device(name: str | None, config: RunConfig) -> Device | None:
    if name is None:
        return None
    if name.lower() != "cpu":
        from groundup.account.hardware import named_card

        return card_device(named_card(name), config.train.precision, config.train.matmul_precision)
    from groundup.train.preview.dry_run import measured_cpu

    return measured_cpu(config.train)


def _sweep(target: str, text: str, plot: Path | None, one: Any, *, json_output: bool) -> None:
    from groundup.account.sweep import parse_sweep, sweep_figure, sweep_rows, sweep_section
    from groundup.display.console import make_console, print_section
    from groundup.display.figure import picture_kind, write_picture

    name, values = parse_sweep(text)
    if plot is not None:
        picture_kind(plot)
    changes = [_change(name, value) for value in values]
    rows = sweep_rows([one(target, **change) for change in changes], [v for change in changes for v in change.values()])
    if plot is not None:
        write_picture(sweep_figure(target, name, rows), plot)
    if json_output:
        _print_json({"name": target, "option": name, "rows": rows})
        return
    console = make_console()
    print_section(console, *sweep_section(name, rows))
    if plot is not None:
        console.print(f"drawn into {plot}", markup=False)


def _print(documents: list[dict[str, Any]], *, kept: bool) -> None:
    from groundup.account.sections import answer, comparison, exercise_section, kept_section, sections
    from groundup.display.console import make_console, print_section

    console = make_console()
    if len(documents) == 2:
        print_section(console, *comparison(*documents))
    else:
        document = documents[0]
        for section in sections(document):
            print_section(console, *section)
            if section.title.startswith("memory"):
                _print_bar(console, document)
        if kept:
            print_section(console, *kept_section(document))
        if "exercise" in document:
            print_section(console, *exercise_section(document))
        console.print(answer(document))
        console.print()
    for convention in documents[0]["conventions"]:
        console.print(convention, style="dim")


def _print_bar(console: Console, document: dict[str, Any]) -> None:
    """The memory as a bar, of the device's where there is one."""
    from rich.text import Text

    from groundup.account.sections import memory_bar
    from groundup.display.units import size_text

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


def _exercise(config: RunConfig, mfu: float) -> dict[str, Any]:
    from groundup.studies.exercise import exercise

    return exercise(config, mfu)


def _print_json(document: object) -> None:
    # No number that is none: JSON has neither NaN nor infinity.
    print(json.dumps(document, indent=1, allow_nan=False))


def _list_devices(*, json_output: bool) -> None:
    import dataclasses

    from groundup.account.hardware import CARDS
    from groundup.display.console import make_console, print_section
    from groundup.display.section import Section

    if json_output:
        _print_json([dataclasses.asdict(card) for card in CARDS])
        return
    rows = []
    for card in CARDS:
        peaks = [f"{peak:,.4g}" if peak else "" for peak in (card.fp32, card.tf32, card.bf16 or card.fp16)]
        sizes = card.memory if isinstance(card.memory, tuple) else (card.memory,)
        rows.append((card.key, *peaks, " or ".join(f"{size:g}" for size in sizes), f"{card.bandwidth:,}", card.source))
    header = ("device", "fp32", "tf32", "bf16", "GB", "GB/s", "source")
    note = (
        "Dense peaks in TFLOP/s; fp32 is without tensor cores; v100 and t4 have fp16 instead of bf16. Of several "
        "sizes the smallest counts. cpu is measured when it is asked for."
    )
    print_section(make_console(), *Section("devices", header, rows, note))


def _list_presets() -> None:
    from groundup.account.params import parameter_count
    from groundup.display.console import make_console, print_section
    from groundup.display.section import Section

    rows = [(name, f"{parameter_count(run.model):,}", about) for name, (about, run) in PRESETS.items()]
    note = "Also: the name or file of a recipe, or the folder of a run. `groundup account --help` shows the options."
    print_section(make_console(), *Section("presets", ("name", "parameters", "what it is"), rows, note))
