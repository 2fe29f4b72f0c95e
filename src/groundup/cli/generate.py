"""`groundup generate`."""

from __future__ import annotations

import sys
from pathlib import Path

from groundup.cli.parse import call


def generate(arguments: list[str]) -> None:
    """Parse and run."""
    call(_generate, arguments, "generate")


def _generate(
    run: Path,
    /,
    *,
    prompt: str | None = None,
    tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    samples: int = 1,
    chat: bool = False,
    system: str | None = None,
    seed: int | None = None,
    checkpoint: str = "best",
    device: str = "auto",
) -> None:
    """Generate text with a run's model, and print it as it is generated. Defaults are the run's sample options.

    Args:
        run: run directory, or the name of a run in runs/.
        prompt: text to continue; empty begins a new document.
        tokens: maximum number of tokens to generate.
        temperature: sampling temperature; 0 always takes the most probable token.
        top_p: nucleus sampling: sample from the most probable tokens whose probabilities sum to this.
        samples: number of texts.
        chat: talk with a model that was trained on conversations; /reset begins a new one, /quit or Ctrl-D ends. What
            comes through a pipe is one message a line.
        system: first message of a conversation, by the system.
        seed: seed of sampling; default: a new one each time.
        checkpoint: "best", "latest", or a step.
        device: device to run on; "auto" is the one that the run used.
    """
    from groundup.config import check_sampling
    from groundup.display.console import make_console
    from groundup.errors import ConfigError
    from groundup.generation import continue_text
    from groundup.generation.chat import Chat, talk
    from groundup.record.run import RunDirectory
    from groundup.system.threads import wait_by_load
    from groundup.train.checkpoint.folder import load_model
    from groundup.train.device import choose_device

    directory = RunDirectory.open(run)
    config = directory.config
    settings = config.sample
    prompt_given, prompt = prompt is not None, settings.prompt if prompt is None else prompt
    tokens = settings.tokens if tokens is None else tokens
    temperature = settings.temperature if temperature is None else temperature
    top_p = settings.top_p if top_p is None else top_p
    check_sampling(temperature, top_p)
    if samples < 1 or tokens < 1:
        raise ConfigError(f"--samples {samples} --tokens {tokens}; expected at least 1 of each")
    if seed is not None and not 0 <= seed < 2**63:
        raise ConfigError(f"--seed {seed}; expected 0 or more, below 2**63")
    if chat and (prompt_given or samples != 1):
        raise ConfigError("--chat has messages in place of --prompt and --samples; leave them out")
    if system is not None and not chat:
        raise ConfigError(f"--system {system} is for conversations; give --chat, or leave it out")
    template = directory.chat_template() if chat else None
    model, _ = load_model(directory, checkpoint, choose_device(config.train.device if device == "auto" else device))
    tokenizer = directory.tokenizer()
    if template is not None:
        with wait_by_load(), Chat(
            model, tokenizer, template, system=system or "", max_tokens=tokens, temperature=temperature, top_p=top_p,
            seed=seed, end_token=settings.end_token,
        ) as talking:  # fmt: skip
            talk(talking, make_console())
        return
    with wait_by_load():
        for i in range(samples):
            if i:
                print("\n" + "─" * 8 + "\n")
            sys.stdout.write(prompt)
            chosen_seed = None if seed is None else seed + i
            for piece in continue_text(
                model, tokenizer, prompt, tokens, temperature, top_p, seed=chosen_seed,
                begin_token=settings.begin_token, end_token=settings.end_token,
            ):  # fmt: skip
                sys.stdout.write(piece)
                sys.stdout.flush()
            print()
