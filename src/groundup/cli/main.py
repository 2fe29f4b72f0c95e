"""`groundup VERB …`: find the verb, run it, and turn every error a user can cause into one line and exit code 2."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from groundup.errors import ConfigError, GroundupError
from groundup.system.launch import Launch

# verb -> (module, function, what it does); the module is imported only when its verb runs.
VERBS = {
    "demo": (
        "study.demo",
        "demo",
        "stories -> tokenizer -> shards -> a small model that writes, in minutes on a CPU",
    ),
    "stories": ("study.stories", "stories", "write the built-in stories, any size, to a file"),
    "tokenizer train": ("tokenizer.train", "train", "train a byte-pair encoding (BPE) tokenizer on text"),
    "tokenizer count": ("tokenizer.count", "count", "count the pretokens of text, to train on later or elsewhere"),
    "tokenizer inspect": ("tokenizer.inspect", "inspect", "longest tokens, compression and speed of a tokenizer"),
    "tokenizer report": (
        "tokenizer.report",
        "report",
        "compare tokenizers on texts: compression, speed, training, longest tokens",
    ),
    "tokenizer convert": ("tokenizer.convert", "convert", "write a tokenizer in another format, with the same ids"),
    "encode": ("encode", "encode", "encode text into token shards"),
    "data info": ("data.info", "info", "content of a folder of token shards, and how it was made"),
    "data check": ("data.check", "check", "read a whole folder of token shards and compare it with its index"),
    "data show": ("data.show", "show", "one document of a folder of token shards, token by token"),
    "account": (
        "account",
        "account_verb",
        "cost of a run before it starts: parameters, FLOPs, memory, time, what fits",
    ),
    "train": ("train", "train", "train a model from a recipe, or resume a run"),
    "sweep": ("sweep", "sweep", "run an experiment: every trial of a plan; an interrupted sweep resumes"),
    "reproduce": (
        "study.reproduce",
        "reproduce",
        "the published study, from text to report, in minutes or at its own size",
    ),
    "experiment toy-sgd": (
        "study.experiment",
        "toy_sgd",
        "effect of the learning rate on the smallest problem",
    ),
    "report": ("report", "report", "a report on runs: one interactive page, and Markdown with pictures"),
    "compare": ("compare", "compare", "two runs side by side: options, curves, and a test where there are seeds"),
    "runs": ("runs", "runs", "list the runs: filter, sort, tag, export"),
    "fit": ("fit", "fit", "a scaling law of runs: how large a model, how many tokens, what loss for a budget"),
    "lab": ("lab", "lab", "the runs in the browser, while they are trained: curves, samples, differences"),
    "evaluate": (
        "model.evaluate",
        "evaluate",
        "loss and bits per byte of models on a split or on text; their results on tasks of lm-eval",
    ),
    "generate": ("model.generate", "generate", "generate text with a run's model, for one prompt or a file of them"),
    "chat": ("model.chat", "chat", "talk with a model in the terminal"),
    "serve": ("model.serve", "serve", "serve models over HTTP with OpenAI's API"),
    "export": ("model.export", "export", "a run's model for transformers, llama.cpp and others, compared with the run"),
    "import": ("model.import_", "import_", "a model of transformers or llama.cpp as a run"),
}


OUT_OF_MEMORY = "out of memory; use a smaller model, batch or context"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; always ends by SystemExit, or by KeyboardInterrupt (:mod:`groundup.__main__`)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    open_missing_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character gets "?", not a traceback
    try:
        leave(run(arguments))
    except GroundupError as error:
        fail(str(error))
    except BrokenPipeError:  # `groundup … | head`: the reader has enough
        discard_output()
        sys.exit(1)
    except OSError as error:
        # Of what print() cannot write, Python does not say that it was standard output.
        where = error.filename or "a file or standard output"
        fail(f"cannot use {where}: {error.strerror or error}; check the path, its permissions and the disk")
    except MemoryError:
        fail(OUT_OF_MEMORY)
    except RuntimeError as error:  # torch has no separate class for the CPU's memory
        if "allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        fail(OUT_OF_MEMORY)


def open_missing_streams() -> None:
    """Put the null device where a standard stream is closed (`>&-`), or the next file to be opened would be it."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 - open until the process ends


def discard_output() -> None:
    """Send what is still in the buffer of standard output nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(message: str) -> NoReturn:
    """One line on standard error, and exit code 2."""
    try:
        sys.stdout.flush()
    except OSError:
        discard_output()
    print(f"groundup: {printable(message)}", file=sys.stderr)
    leave(2)


_LONGEST_WORD, _LONGEST_MESSAGE = 200, 1000


def printable(message: str) -> str:
    """A message as one line of at most about 1,000 characters that a terminal shows as they are."""
    words = [_shortened(word, _LONGEST_WORD) for word in message.split()]
    line = _shortened(" ".join(words), _LONGEST_MESSAGE)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most * 3 // 5]}…{text[len(text) - most // 3 :]}"


def leave(code: int) -> NoReturn:
    """End the process with this exit code, once all output is written.

    One of several ranks goes at once. At a regular exit the threads of a gloo group that was not taken apart are still
    there, which ends in an abort ("terminate called without an active exception", pytorch/pytorch#190489); and after an
    error it must not be taken apart, since that may wait for a rank that is lost.
    """
    sys.stdout.flush()
    if Launch.from_environment().ranks > 1:
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run the verb that the arguments begin with; returns its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        from groundup.version import VERSION

        print(f"groundup {VERSION}")
        return 0
    verb, rest = split_verb(arguments)
    module, function, _ = VERBS[verb]
    code = getattr(importlib.import_module(f"groundup.cli.{module}"), function)(rest)
    return int(code or 0)


def split_verb(arguments: list[str]) -> tuple[str, list[str]]:
    """The verb, of one word or two, and what follows it.

    Raises:
        ConfigError: no such verb; the nearest is named.
    """
    from groundup.config.recipe import suggestion

    for words in (2, 1):
        verb = " ".join(arguments[:words])
        if verb in VERBS:
            return verb, arguments[words:]
    followers = [v.split()[1] for v in VERBS if v.split()[0] == arguments[0] and " " in v]
    if followers:
        if len(arguments) == 1 or arguments[1].startswith("-"):
            raise ConfigError(f"`groundup {arguments[0]}` needs one of: {', '.join(followers)}")
        raise ConfigError(f"unknown command '{arguments[0]} {arguments[1]}'{suggestion(arguments[1], followers)}")
    raise ConfigError(f"unknown command {arguments[0]!r}{suggestion(arguments[0], VERBS)}")


def usage() -> str:
    """The overview of all verbs."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {about}" for verb, (_, _, about) in VERBS.items())
    return (
        "usage: groundup VERB [OPTIONS]\n\nRaw text to a trained, measured language model.\n\n"
        f"{verbs}\n\n`groundup VERB --help` shows a verb's options."
    )
