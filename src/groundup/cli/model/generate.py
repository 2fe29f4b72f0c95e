"""`groundup generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from groundup.cli.parse import call


def generate(arguments: list[str]) -> None:
    """Parse and run."""
    call(_generate, arguments, "generate")


def _generate(
    run: str,
    /,
    *,
    prompt: str | None = None,
    tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int = 0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: tuple[str, ...] = (),
    samples: int = 1,
    file: Path | None = None,
    out: Path | None = None,
    rows: int | None = None,
    chat: bool = False,
    system: str | None = None,
    seed: int | None = None,
    beyond: Literal["slide", "stop"] = "slide",
    weights: Literal["float32", "bfloat16", "int8"] = "float32",
    json_output: bool = False,
    checkpoint: str = "best",
    device: str = "auto",
) -> None:
    """Generate text with a run's model, and print it as it is generated.

    Args:
        run: run directory, the name of a run in runs/, a folder or file that `groundup import` reads, or hf://ORG/NAME.
        prompt: text to continue; empty begins a new document, - reads standard input. Default: the run's
            sample.prompt, empty unless it was set.
        tokens: maximum number of tokens to generate. Default: the run's sample.tokens, 128 unless it was set.
        temperature: sampling temperature; 0 always takes the most probable token. Default: the run's
            sample.temperature, 0.8 unless it was set.
        top_p: nucleus sampling: sample from the most probable tokens whose probabilities sum to this. Default: the
            run's sample.top_p, 0.9 unless it was set.
        top_k: sample from this many most probable tokens; 0 from all.
        min_p: leave out tokens less probable than this share of the most probable one.
        repetition_penalty: above 1, tokens that are already in the text become less probable.
        stop: end the text before the first of these strings; in them \\n is a line break, \\t a tab, and two
            backslashes are one.
        samples: number of texts; of each prompt.
        file: prompts to continue, one a line, or the "prompt" of each object of a .jsonl file; - reads standard input.
            The texts are written as JSON lines.
        out: with --file: where to write; the same command again goes on where it was broken off.
        rows: with --file: texts that are generated at once. Default: 16.
        chat: talk with a model that was trained on conversations; /reset begins a new one, /quit or Ctrl-D ends. What
            comes through a pipe is one message a line.
        system: first message of a conversation, by the system.
        seed: seed of sampling. Default: a new one each time.
        beyond: what follows when the text is as long as the context: go on with a sliding window, or stop.
        weights: type that the matrices are rounded to; the smaller ones are faster on a CPU.
        json_output: print one JSON object for each text.
        checkpoint: "best", "latest", or a step.
        device: device to run on; "auto" is cuda, then mps, then cpu.
    """
    from groundup.config.names import check_together
    from groundup.errors import ConfigError
    from groundup.generation.prompts import checked_argument, standard_input, with_escapes
    from groundup.language_model import load
    from groundup.system.threads import wait_by_load
    from groundup.terminal import continue_file, talk_with, write_texts

    for name, number in {"--samples": samples, "--tokens": tokens, "--rows": rows}.items():
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
    stops = tuple(with_escapes(checked_argument(one, "--stop")) for one in stop)
    if not all(stops):
        raise ConfigError("--stop ''; expected at least one character")
    text = None if prompt in (None, "-") else checked_argument(prompt, "--prompt")
    model = load(run, checkpoint=checkpoint, device=device, weights=weights)
    sampling = model.sampling(
        tokens, temperature, top_p,
        top_k=top_k, min_p=min_p, repetition_penalty=repetition_penalty, stop=stops, seed=seed,
    )  # fmt: skip
    with wait_by_load():
        if chat:
            talk_with(model, sampling, system or "")
        elif file:
            continue_file(model, file, out, sampling, samples=samples, beyond=beyond, rows=rows or 16)
        else:
            text = standard_input() if prompt == "-" else model.sample.prompt if text is None else text
            write_texts(model, text, sampling, samples=samples, beyond=beyond, as_json=json_output)
