"""`groundup generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from groundup.cli.model.generating import DEFAULT_GENERATING, Generating
from groundup.cli.parse import call


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
    longer_context: int = 0,
) -> None:
    """Generate text with a run's model, and print it as it is generated.

    Args:
        run: run directory, the name of a run in runs/, a folder or file that `groundup import` reads, or hf://ORG/NAME.
        prompt: text to continue; empty begins a new document, - reads standard input. Default: the run's
            sample.prompt, empty unless it was set.
        samples: number of texts; of each prompt.
        file: prompts to continue, one a line, or the "prompt" of each object of a .jsonl file; - reads standard input.
            The texts are written as JSON lines.
        out: with --file: where to write; the same command again goes on where it was broken off.
        rows: with --file: texts that are generated at once. Default: 16.
        chat: talk with a model that was trained on conversations; /reset begins a new one, /quit or Ctrl-D ends. What
            comes through a pipe is one message a line.
        system: first message of a conversation, by the system.
        weights: type that the matrices are rounded to; the smaller ones are faster on a CPU.
        json_output: print one JSON object for each text.
        checkpoint: "best", "latest", or a step.
        device: device to run on; "auto" is cuda, then mps, then cpu.
        longer_context: context length beyond the model's own, for which its rotary embedding is rescaled; 0 keeps it.
    """
    from groundup.config.generate import checked_argument
    from groundup.config.names import check_together
    from groundup.errors import ConfigError
    from groundup.generation.prompts import standard_input
    from groundup.language_model import load
    from groundup.system.threads import wait_by_load
    from groundup.terminal import continue_file, talk_with, write_texts

    for name, number in {"--samples": samples, "--rows": rows}.items():
        if number is not None and number < 1:
            raise ConfigError(f"{name} {number}; expected at least 1")
    given = {
        "--prompt": prompt is not None, "--file": file is not None, "--samples": samples != 1, "--out": out is not None,
        "--rows": rows is not None, "--system": system is not None, "--json-output": json_output,
        "--chat": chat,
    }  # fmt: skip
    check_together(
        given,
        needs={"--out": "--file", "--rows": "--file", "--system": "--chat"},
        excludes={
            "--chat": ("--file", "--prompt", "--samples", "--json-output"),
            "--file": ("--prompt", "--json-output"),
        },
    )
    text = None if prompt in (None, "-") else checked_argument(prompt, "--prompt")
    model = load(run, checkpoint=checkpoint, device=device, weights=weights, longer_context=longer_context)
    sampling, beyond, compiled = model.sampling(**generating.sampling), generating.beyond, generating.compile
    with wait_by_load():
        if chat:
            talk_with(model, sampling, system or "", beyond=beyond, compile=compiled)
        elif file:
            continue_file(model, file, out, sampling, samples=samples, beyond=beyond, rows=rows or 16, compile=compiled)
        else:
            text = standard_input() if prompt == "-" else model.sample.prompt if text is None else text
            write_texts(model, text, sampling, samples=samples, beyond=beyond, compile=compiled, as_json=json_output)
