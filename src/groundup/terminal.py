"""Generation in a terminal: texts as they are generated, a file of prompts, a conversation."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.display.console import make_console
from groundup.display.progress import progress_bar
from groundup.display.units import size_text, time_text
from groundup.errors import ConfigError, DataError
from groundup.generation import Generation, Sampling, prompt_ids
from groundup.generation.chat import Chat
from groundup.generation.engine import Beyond
from groundup.generation.prompts import Written, generate_file, read_prompts, sampling_values
from groundup.language_model import LanguageModel
from groundup.system.process import peak_memory

if TYPE_CHECKING:
    from rich.console import Console


def write_texts(
    model: LanguageModel,
    prompt: str,
    sampling: Sampling,
    *,
    samples: int,
    beyond: Beyond,
    compile: bool = False,
    as_json: bool = False,
) -> None:
    """Write texts that continue a prompt to standard output as they are generated; in a terminal, their speed too.

    Args:
        as_json: one JSON object for each text instead.
    """
    began = time.perf_counter()
    first, count = 0.0, 0
    engine = model.engine(rows=1, beyond=beyond, compile=compile)
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
    compile: bool = False,
) -> Written:
    """Continue the prompts of a file, many at once (:func:`groundup.generation.prompts.generate_file`).

    Raises:
        ConfigError: ``out`` has other texts, or another process writes it.
        DataError: a prompt cannot be read; or after all others were continued, that some could not be.
    """
    wanted = read_prompts(prompts)
    engine = model.engine(rows=rows, beyond=beyond, compile=compile)

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
    if out is not None:
        print(told)
    elif console.is_terminal:
        console.print(told, style="dim", highlight=False)
    if done.failed:
        raise DataError(
            f'{done.failed:,} of {done.texts:,} prompts could not be continued: see "error" in {out or "the output"}'
        )
    return done


def talk_with(
    model: LanguageModel, sampling: Sampling, system: str = "", *, beyond: Beyond = "slide", compile: bool = False
) -> None:
    """A conversation in the terminal, or through standard input, until it ends.

    Args:
        sampling: of each reply.
        system: first message, by the system; empty for none.

    Raises:
        DataError: the model was not trained on conversations.
    """
    template = model.chat_template
    if template is None and model.run is not None:
        template = model.run.chat_template()  # raises, and says what to do
    if template is None:
        raise DataError("the model has no chat template; a conversation needs one: leave out --chat, and give --prompt")
    engine = model.engine(rows=1, beyond=beyond, compile=compile, reuse=1)
    with Chat(engine, template, sampling, system=system) as chat:

        def reply(message: str) -> Iterator[str]:
            yield from chat.reply(message.strip())

        def forgotten() -> str:
            return f"the first {chat.left_out} messages no longer fit the context" if chat.left_out else ""

        def reset() -> str:
            chat.reset()
            return ""

        _converse("/reset begins a new conversation, /quit or Ctrl-D ends", reply, reset, forgotten)


def continue_lines(
    model: LanguageModel, sampling: Sampling, *, beyond: Beyond = "slide", compile: bool = False
) -> None:
    """Continue each line that is written in the terminal, or comes through standard input, until it ends."""
    count = itertools.count()

    def continued(line: str) -> Iterator[str]:
        settings = sampling.with_seed(next(count))
        return (token.text for token in model.tokens(line, settings, beyond=beyond, compile=compile))

    _converse(
        "not trained on conversations: it continues what you write; Ctrl-C stops a text, /quit or Ctrl-D ends",
        continued,
        lambda: "each line is continued by itself: there is no conversation to reset",
    )


def _converse(
    told: str, answer: Callable[[str], Iterator[str]], reset: Callable[[], str], note: Callable[[], str] = str
) -> None:
    """Answer what the user writes in the terminal, or each line of standard input.

    Args:
        told: first line in a terminal.
        answer: an answer in pieces; it gets the line as it was written.
        reset: what /reset does; returns what to say about it in a terminal.
        note: what to say after an answer in a terminal.
    """
    console = make_console()
    is_terminal = console.is_terminal and sys.stdin.isatty()
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")

    def say(text: str, style: str = "dim") -> None:
        if is_terminal and text:
            console.print(text, style=style, markup=False, highlight=False)

    say(told)
    for line in _lines(console if is_terminal else None):
        if line.strip() == "/quit":
            return
        if line.strip() == "/reset":
            say(reset())
            continue
        try:
            for piece in answer(line):
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:  # of a terminal: enough of this answer
            if not is_terminal:
                raise
        except (ConfigError, DataError) as error:
            if not is_terminal:
                raise
            say(str(error), "red")
            continue
        print(flush=True)
        say(note())


def _lines(console: Console | None) -> Iterator[str]:
    """What the user writes, without blank lines, to its end."""
    while True:
        try:
            line = console.input("[bold cyan]> [/]") if console else input()
        except EOFError:
            if console:
                print()
            return
        if line.strip():
            yield line
