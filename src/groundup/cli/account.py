"""`groundup account`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, UseAppendAction, arg

from groundup.cli.parse import call
from groundup.config import RunConfig, override
from groundup.display.units import parse_count, parse_size

if TYPE_CHECKING:
    from groundup.account.account import Device


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
    """Cost of a run before it starts: parameters, FLOPs, memory, time, and what fits.

    groundup account gpt2-xl --device h200 --tokens 10B

    Args:
        targets: a preset, a recipe (its name or file) or the folder of a run; two of them with --compare. Without any,
            the presets are listed.
        context_length: tokens per sequence.
        batch_size: sequences per step.
        micro_batch_size: sequences per micro-batch.
        vocab_size: rows of the embedding table.
        optimizer: adamw or muon.
        precision: precision of matmuls; auto is the one that is fastest on the device.
        attention: flash, which never stores the scores, or plain.
        kernels: fast, with a loss that never stores all logits, or plain.
        activation_checkpointing: recompute the activations of each block; if a recipe has it,
            --set activation_checkpointing=false turns it off.
        set_option: any other option of a run, as NAME=VALUE; may be repeated.
        device: a card, such as h200, a100-40gb or rtx4090; or cpu, which is measured now. Without a device, no time
            is given, and the memory is that of a GPU.
        mfu: model FLOPs utilization, the share of the device's peak that training reaches. Default: 0.4 on a card;
            on the cpu, the predicted one.
        tokens: tokens of the whole run, such as 300B; default: those of the recipe's steps.
        fit_memory: memory to fill, such as 80GB or 80GiB, with the largest batch or model.
        fit_hours: time to fill with tokens, or with the largest model that sees 20 tokens per parameter.
        compare: two targets side by side.
        sweep: NAME=VALUE,VALUE,…: the same for several values of an option.
        plot: draw a sweep into this file (.png, .svg or .pdf).
        exercise: also answer the course's written exercise: its formulas for activations, AdamW and training time, at
            an MFU of 0.5 on an A100 unless --mfu is given.
        kept: list every activation that is saved for the backward pass.
        devices: list the cards that --device knows: peak, memory, bandwidth and source.
        json_output: print JSON instead of tables.
    """
    from groundup.account import terminal

    if devices:
        terminal.print_devices(json_output=json_output)
        return
    if not targets and not (compare or sweep or json_output):
        terminal.print_presets()
        return
    terminal.check_targets(targets, compare=compare, sweep=sweep, plot=plot, one_run=exercise or kept)
    options = {
        "model.context_length": context_length, "model.vocab_size": vocab_size, "data.batch_size": batch_size,
        "data.micro_batch_size": micro_batch_size, "optim.optimizer": optimizer, "train.precision": precision,
        "train.attention": attention, "train.kernels": kernels,
        "train.activation_checkpointing": activation_checkpointing or None,
    }  # fmt: skip
    changes = terminal.option_changes(options, set_option)

    def one(target: str, **more: Any) -> dict[str, Any]:
        return terminal.account_of(
            target, changes | more, lambda config: _device(device, config), mfu=mfu, fit_hours=fit_hours,
            tokens=None if tokens is None else parse_count(tokens),
            fit_memory=None if fit_memory is None else parse_size(fit_memory),
        )  # fmt: skip

    if sweep is not None:
        terminal.print_sweep(targets[0], sweep, plot, one, json_output=json_output)
        return
    documents = [one(target) for target in targets]
    if exercise:
        from groundup.studies.exercise import exercise as written_exercise

        config = override(terminal.find_run(targets[0]), changes)
        documents[0]["exercise"] = written_exercise(config, 0.5 if mfu is None else mfu)
    if json_output:
        terminal.print_json(documents[0] if len(documents) == 1 else documents)
        return
    terminal.print_account(documents, kept=kept)


def _device(name: str | None, config: RunConfig) -> Device | None:
    if name is not None and name.lower() == "cpu":
        from groundup.train.device import measured_cpu

        return measured_cpu(config.train)
    from groundup.account.terminal import named_device

    return None if name is None else named_device(name, config)
