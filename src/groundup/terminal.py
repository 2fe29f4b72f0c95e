"""Generation in a terminal: texts as they are generated, a file of prompts, a conversation."""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from io import TextIOWrapper
from pathlib import Path

from groundup.display.console import make_console
from groundup.display.progress import progress_bar
from groundup.display.units import size_text, time_text
from groundup.errors import DataError
from groundup.generation import Generation, Sampling, prompt_ids
from groundup.generation.chat import Chat, lines, talk
from groundup.generation.engine import Beyond
from groundup.generation.prompts import Written, generate_file, read_prompts, sampling_values
from groundup.language_model import LanguageModel
from groundup.system.process import peak_memory


def write_texts(
    model: LanguageModel, prompt: str, sampling: Sampling, *, samples: int, beyond: Beyond, as_json: bool = False
) -> None:
    """Write texts that continue a prompt to standard output as they are generated; in a terminal, their speed too.

    Args:
        as_json: one JSON object for each text instead.
    """
    began = time.perf_counter()
    first, count = 0.0, 0
    engine = model.engine(rows=1, beyond=beyond)
    for i in range(samples):
        if not as_json:
            sys.stdout.write(("\n" + "─" * 8 + "\n\n" if i else "") + prompt)
        settings = sampling.with_seed(i)
        text = engine.submit(prompt_ids(model.tokenizer, prompt, model.sample.begin_token), settings)
        for token in engine.run(text):
            first, count = first or time.perf_counter() - began, count + 1
            if not as_json:
                sys.stdout.write(token.text)
                sys.stdout.flush()
        row = {"prompt": prompt, "text": text.text, "tokens": len(text.tokens), "finish_reason": text.finish_reason}
        print(json.dumps(row | {"sampling": sampling_values(settings)}) if as_json else "")
    console = make_console(stderr=True)
    if console.is_terminal:
        seconds = time.perf_counter() - began
        speed = f"{count:,} tokens in {time_text(seconds)}, {count / seconds:,.0f} tokens/s, the first after "
        console.print(
            f"{speed}{time_text(first)}; peak memory {size_text(peak_memory())}", style="dim", highlight=False
        )


def continue_file(
    model: LanguageModel,
    prompts: Path,
    out: Path | None,
    sampling: Sampling,
    *,
    samples: int = 1,
    beyond: Beyond = "slide",
    rows: int = 16,
) -> Written:
    """Continue the prompts of a file, many at once (:func:`groundup.generation.prompts.generate_file`).

    Raises:
        ConfigError: ``out`` has other texts, or another process writes it.
        DataError: a prompt cannot be read; or after all others were continued, that some could not be.
    """
    wanted = read_prompts(prompts)
    engine = model.engine(rows=rows, beyond=beyond)

    def submit(prompt: str, settings: Sampling) -> Generation:
        return engine.submit(prompt_ids(model.tokenizer, prompt, model.sample.begin_token), settings)

    console, began = make_console(stderr=True), time.perf_counter()
    shows_texts = out is None and sys.stdout.isatty()  # between which a bar would stand
    with nullcontext() if shows_texts else progress_bar(console) as progress:
        done = generate_file(
            engine,
            submit,
            wanted,
            out,
            sampling,
            samples=samples,
            model=f"{model.sha256()} {beyond}",
            progress=progress,
        )
    seconds = time.perf_counter() - began
    kept = f", {done.earlier:,} were there already" if done.earlier else ""
    told = f"{done.texts:,} texts of {done.tokens:,} tokens in {time_text(seconds)}{kept}"
    console.print(told, style="dim", highlight=False)
    if done.failed:
        raise DataError(
            f'{done.failed:,} of {done.texts:,} prompts could not be continued: see "error" in {out or "the output"}'
        )
    return done


def talk_with(model: LanguageModel, sampling: Sampling, system: str = "") -> None:
    """A conversation in the terminal, until it ends.

    Args:
        sampling: max_tokens, temperature, top_p and seed of each reply.
        system: first message, by the system; empty for none.

    Raises:
        DataError: the model was not trained on conversations.
    """
    template = model.chat_template
    if template is None and model.run is not None:
        template = model.run.chat_template()  # raises, and says what to do
    if template is None:
        raise DataError("the model has no chat template; a conversation needs one: leave out --chat, and give --prompt")
    with Chat(
        model.model, model.tokenizer, template, system=system, max_tokens=sampling.max_tokens,
        temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed, end_token=model.sample.end_token,
    ) as talking:  # fmt: skip
        talk(talking, make_console())


def continue_lines(model: LanguageModel, sampling: Sampling) -> None:
    """Continue each line that is written in the terminal, or comes through standard input, until it ends."""
    console = make_console()
    is_terminal = console.is_terminal and sys.stdin.isatty()
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    if is_terminal:
        told = "not trained on conversations: it continues what you write; Ctrl-C stops a text, /quit or Ctrl-D ends"
        console.print(told, style="dim")
    for number, line in enumerate(lines(console if is_terminal else None)):
        if line == "/quit":
            return
        try:
            for token in model.tokens(line, sampling.with_seed(number)):
                sys.stdout.write(token.text)
                sys.stdout.flush()
        except KeyboardInterrupt:
            if not is_terminal:
                raise
        print(flush=True)
