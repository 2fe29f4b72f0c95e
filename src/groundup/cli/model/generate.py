"""`groundup generate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from groundup.cli.parse import DEFAULT_GENERATING, Generating, call


def generate(arguments: list[str]) -> None:
    """Parse and run."""
    call(_generate, arguments, "generate")


def _generate(
    run: str,
    /,
    *,
    prompt: str | None = None,
    generating: Generating = DEFAULT_GENERATING,
    samples: int = 1,
    file: Path | None = None,
    out: Path | None = None,
    rows: int | None = None,
    chat: bool = False,
    system: str | None = None,
    weights: Literal["float32", "bfloat16", "int8"] = "float32",
    json_output: bool = False,
    checkpoint: str = "best",
    device: str = "auto",
) -> None:
    """Generate text with a run's model, and print it as it is generated. Defaults are the run's sample options.

    Args:
        run: run directory, the name of a run in runs/, a folder or file that `groundup import` reads, or hf://ORG/NAME.
        prompt: text to continue; empty begins a new document, - reads standard input.
        samples: number of texts; of each prompt.
        file: prompts to continue, one a line, or the "prompt" of each object of a .jsonl file. The texts are written as
            JSON lines.
        out: with --file: where to write; the same command again goes on where it was broken off.
        rows: with --file: texts that are generated at once; default: 16.
        chat: talk with a model that was trained on conversations; /reset begins a new one, /quit or Ctrl-D ends. What
            comes through a pipe is one message a line.
        system: first message of a conversation, by the system.
        weights: type that the matrices are rounded to; the smaller ones are faster on a CPU.
        json_output: print one JSON object for each text.
        checkpoint: "best", "latest", or a step.
        device: device to run on; "auto" is cuda, then mps, then cpu.
    """
    from groundup.errors import ConfigError
    from groundup.language_model import load
    from groundup.system.threads import wait_by_load
    from groundup.terminal import continue_file, talk_with, write_texts

    if samples < 1 or (rows is not None and rows < 1):
        raise ConfigError(f"--samples {samples} --rows {rows}; expected at least 1 of each")
    if chat and (prompt is not None or samples != 1 or file):
        raise ConfigError("--chat has messages in place of --prompt, --file and --samples; leave them out")
    if chat and json_output:
        raise ConfigError("--chat writes replies as they come; leave out --json-output")
    if system is not None and not chat:
        raise ConfigError(f"--system {system} is for conversations; give --chat, or leave it out")
    if (file and prompt is not None) or ((out or rows is not None) and not file):
        raise ConfigError("--file has the prompts in place of --prompt, and --out and --rows belong to it")
    model, beyond = load(run, checkpoint=checkpoint, device=device, weights=weights), generating.beyond
    sampling, name = model.sampling(**generating.sampling), f"{run} {weights}"
    with wait_by_load():
        if chat:
            talk_with(model, sampling, system or "", beyond=beyond)
        elif file:
            continue_file(model, name, file, out, sampling, samples=samples, beyond=beyond, rows=rows or 16)
        else:
            text = sys.stdin.read() if prompt == "-" else model.sample.prompt if prompt is None else prompt
            write_texts(model, text, sampling, samples=samples, beyond=beyond, as_json=json_output)
