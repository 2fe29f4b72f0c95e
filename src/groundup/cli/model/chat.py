"""`groundup chat`."""

from __future__ import annotations

from typing import Literal

from groundup.cli.model.generating import DEFAULT_GENERATING, Generating
from groundup.cli.parse import call


def chat(arguments: list[str]) -> None:
    """Parse and run."""
    call(_chat, arguments, "chat")


def _chat(
    run: str,
    /,
    *,
    system: str | None = None,
    generating: Generating = DEFAULT_GENERATING,
    weights: Literal["float32", "bfloat16", "int8"] = "float32",
    checkpoint: str = "best",
    device: str = "auto",
    longer_context: int = 0,
) -> None:
    """Talk with a model. One that was not trained on conversations continues what is written instead.

    /quit or Ctrl-D ends, Ctrl-C stops a reply, /reset begins a new conversation. What comes through a pipe is one
    message a line. Defaults are the run's sample options.

    Args:
        run: run directory, the name of a run in runs/, a folder or file that `groundup import` reads, or hf://ORG/NAME.
        system: first message, by the system.
        weights: type that the matrices are rounded to; the smaller ones are faster on a CPU.
        checkpoint: "best", "latest", or a step.
        device: device to run on; "auto" is cuda, then mps, then cpu.
        longer_context: context length beyond the model's own, for which its rotary embedding is rescaled; 0 keeps it.
    """
    from groundup.errors import ConfigError
    from groundup.language_model import load
    from groundup.system.threads import wait_by_load
    from groundup.terminal import continue_lines, talk_with

    model = load(run, checkpoint=checkpoint, device=device, weights=weights, longer_context=longer_context)
    sampling = model.sampling(**generating.sampling)
    with wait_by_load():
        if model.chat_template is not None:
            talk_with(model, sampling, system or "", beyond=generating.beyond, compile=generating.compile)
        elif system is not None:
            raise ConfigError(f"--system {system} is for models trained on conversations; {run} was not: leave it out")
        else:
            continue_lines(model, sampling, beyond=generating.beyond, compile=generating.compile)
