"""Every verb with arguments that work, its options found by introspection, and what each command's result is."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from groundup.cli.main import VERBS
from groundup.config import RunConfig, flatten

# verb -> arguments that work in the world, by the names of its parameters. A path that is not in the world is written.
BASE: dict[str, dict[str, str]] = {
    "demo": {"data": "demo", "steps": "1"},
    "stories": {"out": "new.txt", "megabytes": "0.002"},
    "tokenizer train": {"inputs": "text.txt", "vocab_size": "280", "out": "new"},
    "tokenizer count": {"inputs": "text.txt", "out": "new.npz"},
    "tokenizer inspect": {"tokenizer": "tok", "text": "text.txt", "longest": "3"},
    "tokenizer report": {"corpora": "a=text.txt", "out": "new", "vocab_size": "280", "documents": "1", "plot": "False"},
    "tokenizer convert": {"source": "tok", "out": "new.json"},
    "encode": {"inputs": "text.txt", "tokenizer": "tok", "out": "new"},
    "data info": {"path": "train"},
    "data check": {"path": "train"},
    "data show": {"path": "train", "number": "1"},
    "account": {"targets": "recipe.toml", "vocab_size": "290"},
    "train": {"recipe": "recipe.toml", "name": "new"},
    "sweep": {"plan": "plan.toml", "directory": "new"},
    "reproduce": {"data": "texts", "directory": "new"},
    "experiment toy-sgd": {"steps": "3"},
    "report": {"runs": "runs/r", "out": "new"},
    "compare": {"first": "runs/r", "second": "runs/s"},
    "runs": {"runs_dir": "runs"},
    "evaluate": {"models": "runs/r", "device": "cpu"},
    "generate": {"run": "runs/r", "device": "cpu", "seed": "1", "tokens": "4"},
    "chat": {"run": "runs/r", "device": "cpu", "seed": "1", "tokens": "4"},
    "export": {"run": "runs/r", "to": "folder", "out": "new"},
    "import": {"source": "exported", "out": "new"},
}
SERVERS = ("serve", "lab")
"""Verbs that end by a signal only; tests/serve gives them bad input."""
ELSEWHERE = ("fit",)
"""Verbs that need more than the world has, here seven runs; tests/reports/test_scaling.py damages some."""
TRIED = [verb for verb in VERBS if verb not in (*SERVERS, *ELSEWHERE)]
LEFT_OUT = "<left out>"
# What an option needs beside it, or takes, when its turn comes.
WITH: dict[tuple[str, str], dict[str, str]] = {
    ("tokenizer train", "counts"): {"counts": "counts.npz", "inputs": LEFT_OUT},
    ("tokenizer report", "held_out"): {"held_out": "a=valid.txt"},
    ("tokenizer report", "tokenizer"): {"tokenizer": "a=tok"},
    ("tokenizer convert", "pattern"): {
        "source": "tok.tiktoken",
        "pattern": "gpt2",
        "special_tokens": "<|endoftext|>=289",
    },
    ("account", "plot"): {"sweep": "d_model=16,32", "plot": "new.svg"},
    ("account", "sweep"): {"sweep": "d_model=16,32"},
    ("experiment toy-sgd", "plot"): {"plot": "new.svg"},
    ("compare", "html"): {"html": "new.html"},
    ("runs", "csv"): {"csv": "new.csv"},
    ("evaluate", "data"): {"data": "valid"},
    ("evaluate", "text"): {"text": "text.txt"},
    **{
        ("evaluate", name): {"text": "text.txt"}
        for name in ("separator", "limit", "template", "format", "encoding", "on_bad_row")
    },
    ("evaluate", "field"): {"text": "text.jsonl"},
    ("train", "resume"): {"resume": "runs/r", "recipe": LEFT_OUT, "name": LEFT_OUT},
    ("train", "data.vocab"): {"data.vocab": "tok/vocab.json", "data.merges": "tok/merges.txt", "data.train": "ids.npy"},
    ("train", "data.merges"): {
        "data.vocab": "tok/vocab.json",
        "data.merges": "tok/merges.txt",
        "data.train": "ids.npy",
    },
    ("train", "then"): {"resume": "runs/r", "then": "linear", "recipe": LEFT_OUT, "name": LEFT_OUT},
    ("train", "train.init"): {"train.init": "runs/r"},
    ("train", "data.train"): {"data.train": "train"},
    ("train", "data.valid"): {"data.valid": "valid"},
    ("train", "runs_dir"): {"runs_dir": "new"},
    ("runs", "tag"): {"tag": "r"},
    ("runs", "untag"): {"untag": "r"},
}
TEXT_INPUTS = {
    ("tokenizer train", "inputs"), ("tokenizer count", "inputs"), ("tokenizer report", "corpora"),
    ("tokenizer report", "held_out"), ("tokenizer inspect", "text"), ("encode", "inputs"),
    ("evaluate", "text"),
}  # fmt: skip
"""Options that read text as a stream, where a pipe is as good as a file."""
SLOW = ("demo", "sweep", "report", "reproduce", "tokenizer report", "compare")
"""Verbs of which a case takes a second or more."""
NOT_TRIED = {
    ("train", "train.max_iters"): "a large number is a long run",
    ("train", "train.profile"): "takes seconds, and reads nothing",
    ("train", "train.compile"): "takes a minute, and reads nothing",
    ("train", "track.wandb"): "starts a service",
    ("train", "track.wandb_project"): "is of the service",
    ("demo", "minutes"): "a large number is a long run",
    ("demo", "steps"): "a large number is a long run",
    ("sweep", "preset"): "makes 17 runs",
    ("sweep", "minutes"): "is of the preset",
    ("sweep", "address"): "is of a cluster",
    ("sweep", "executor"): "starts processes",
    ("sweep", "workers"): "starts processes",
    ("sweep", "gpus"): "is of a cluster",
    ("reproduce", "workers"): "starts processes",
    ("account", "device"): "measures the processor",
    ("export", "push"): "reaches for the network",
    ("evaluate", "tasks"): "reads lm-eval's list of thousands of tasks",
}


@dataclasses.dataclass(frozen=True)
class Option:
    """A parameter of a verb."""

    verb: str
    name: str
    positional: bool
    kind: str
    """path, bool, or word."""
    spelling: str
    """Its name on the command line."""

    @property
    def is_pair(self) -> bool:
        """Whether it takes a run and a tag."""
        return self.verb == "runs" and self.name in ("tag", "untag")


class _FoundError(Exception):
    def __init__(self, function: Callable[..., Any]):
        self.function = function


@functools.cache
def options_of(verb: str) -> tuple[Option, ...]:
    """All parameters of a verb, read from the function that its arguments are bound to."""
    if verb == "train":
        return _options_of_train()
    module_name, entry, _ = VERBS[verb]
    module = importlib.import_module(f"groundup.cli.{module_name}")

    def found(function: Callable[..., Any], arguments: list[str], name: str) -> None:
        raise _FoundError(function)

    real = module.call
    module.call = found
    try:
        getattr(module, entry)([])
    except _FoundError as stop:
        function = stop.function
    finally:
        module.call = real
    scope = vars(importlib.import_module(function.__module__))
    hints = typing.get_type_hints(function, scope, include_extras=True)
    found: list[Option] = []
    for name, parameter in inspect.signature(function).parameters.items():
        inside = typing.get_args(hints[name])[:1] or (hints[name],)
        if dataclasses.is_dataclass(inside[0]):  # a group of options
            group = typing.get_type_hints(inside[0], include_extras=True)
            found += [Option(verb, one, False, _kind(hint), _spelling(one, hint)) for one, hint in group.items()]
            continue
        positional = parameter.kind is inspect.Parameter.POSITIONAL_ONLY
        found.append(Option(verb, name, positional, _kind(hints[name]), _spelling(name, hints[name])))
    return tuple(found)


def _spelling(name: str, hint: Any) -> str:
    renamed = [found.name for found in getattr(hint, "__metadata__", ()) if getattr(found, "name", None)]
    return renamed[0] if renamed else name.replace("_", "-")


def _kind(hint: Any) -> str:
    if hint is Path or hint is bool:
        return "path" if hint is Path else "bool"
    kinds = {_kind(inner) for inner in typing.get_args(hint) if inner is not type(None)}
    return "path" if "path" in kinds else "bool" if kinds == {"bool"} else "word"


def _options_of_train() -> tuple[Option, ...]:
    found = [Option("train", "recipe", True, "path", "recipe"), Option("train", "resume", False, "path", "resume")]
    found.append(Option("train", "then", False, "word", "then"))
    paths = ("train.init", "runs_dir", "data.train", "data.valid", "data.vocab", "data.merges")
    for name, value in flatten(RunConfig()).items():
        kind = "path" if name in paths else "bool" if isinstance(value, bool) else "word"
        found.append(Option("train", name, False, kind, name))
    return tuple(found)


def is_path(option: Option) -> bool:
    """Whether an option takes a path: by its type, or since its value in the table is one."""
    value = values_of(option.verb, option.name).get(option.name, "")
    return option.kind == "path" or _in_world(value) or (option.verb, option.name) in TEXT_INPUTS


def _in_world(value: str) -> bool:
    return value.partition("=")[2].endswith(".txt") or value.startswith(("runs/", "tok", "recipe", "plan"))


def values_of(verb: str, option: str | None = None) -> dict[str, str]:
    """Arguments that work, with those that an option needs when it is its turn."""
    return BASE.get(verb, {}) | WITH.get((verb, option or ""), {})


def arguments_of(verb: str, values: Mapping[str, str]) -> list[str]:
    """The command line of a verb with these values."""
    line = verb.split()
    known = {option.name: option for option in options_of(verb)}
    for name, value in values.items():
        option = known[name]
        if value == LEFT_OUT:
            continue
        if option.positional:
            line.append(value)
        elif option.kind == "bool" and value == "False":
            line.append(f"--no-{option.spelling}")
        elif option.is_pair:
            line += [f"--{option.spelling}", value, "word"]
        else:  # as one word: a value may begin with dashes
            line.append(f"--{option.spelling}={value}")
    return line
