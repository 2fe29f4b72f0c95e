"""Parsing of arguments into Python values with tyro, whose boxed messages become one line."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import tyro
from tyro.conf import FlagCreatePairsOff

from groundup.config.generate import GenerateOptions
from groundup.errors import ConfigError
from groundup.text.options import ReadOptions

Result = TypeVar("Result")
Reading: TypeAlias = Annotated[ReadOptions, tyro.conf.arg(name="")]
"""Flags of a verb that reads text: one for each field of `ReadOptions`."""
DEFAULT_READING = ReadOptions()
Generating: TypeAlias = Annotated[GenerateOptions, tyro.conf.arg(name="")]
"""Flags of a verb that generates text: one for each field of `GenerateOptions`."""
DEFAULT_GENERATING = GenerateOptions()


def call(function: Callable[..., Result], arguments: list[str], verb: str) -> Result:
    """Call a function with parameters read from the command line; `--help` prints its docstring and exits.

    Raises:
        ConfigError: an unknown option, a value of the wrong type, or a missing one.
    """

    @functools.wraps(function)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], Result]:
        return lambda: function(*args, **kwargs)

    _refuse_empty_paths(function, arguments)
    # Parsing only binds: what the function itself prints to standard error must not be taken for tyro's complaint.
    bound: Callable[[], Result] = parse(bind, _without_values(arguments, _switches(function)), verb)
    return bound()


def _refuse_empty_paths(function: Callable[..., Any], arguments: list[str]) -> None:
    """Refuse an empty path, which would mean the current folder: mostly it is a shell's variable that is not set."""
    hints = typing.get_type_hints(function)
    paths = {f"--{name}".replace("_", "-") for name, hint in hints.items() if Path in (hint, *typing.get_args(hint))}
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, _, value = argument.partition("=")
        if argument == "" and not before.startswith("--"):
            raise ConfigError("an argument is empty; expected a path or a name: is a variable of the shell not set?")
        empty = before if argument == "" else option if "=" in argument and not value else ""
        if empty.replace("_", "-") in paths:
            raise ConfigError(f"{empty} is empty; expected a path: is a variable of the shell not set?")


def switch_value(attached: str | None, rest: list[str]) -> bool | None:
    """The value written after a boolean option, as ``--plot=false`` or ``--plot false``; None where there is none.

    Of the words that follow, only true and false are values. A file of such a name is written ``./false``.

    Args:
        attached: what follows the equals sign, if there is one.
        rest: the words that follow; the value is taken off.

    Raises:
        ConfigError: what is attached is neither true nor false.
    """
    if attached is not None:
        if attached.lower() not in (*_TRUE, *_FALSE):
            raise ConfigError(f"{attached!r}; expected true or false")
        return attached.lower() in _TRUE
    if rest and rest[0].lower() in ("true", "false"):
        return rest.pop(0).lower() == "true"
    return None


_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


def _switches(function: Callable[..., Any]) -> dict[str, bool]:
    """Boolean options of a function as they are written, and whether ``--no-`` switches them off."""
    found = {}
    hints = typing.get_type_hints(function, include_extras=True)
    for name in inspect.signature(function).parameters:
        kind, *marks = typing.get_args(hints[name]) or (hints[name],)
        if kind is bool:
            written = next((mark.name for mark in marks if getattr(mark, "name", None)), name)
            found[written.replace("_", "-")] = FlagCreatePairsOff not in marks
    return found


def _without_values(arguments: list[str], switches: dict[str, bool]) -> list[str]:
    """The arguments with ``--plot=false`` as ``--no-plot``, since tyro takes the value for the next argument."""
    found: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*found, argument, *rest]
        written, equals, value = argument.partition("=")
        name = written[2:].replace("_", "-")
        if not written.startswith("--") or name not in switches:
            found.append(argument)
            continue
        try:
            wanted = switch_value(value if equals else None, rest)
        except ConfigError as error:
            raise ConfigError(f"{written} {error}") from None
        if wanted is not False:
            found.append(written)
        elif switches[name]:
            found.append(f"--no-{name}")
    return found


def parse(target: Callable[..., Result], arguments: list[str], verb: str, **options: Any) -> Result:
    """``tyro.cli`` with one-line errors; target is a dataclass, or a function without side effects.

    Raises:
        ConfigError: as for :func:`call`.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(target, args=arguments, prog=f"groundup {verb}", **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ConfigError(one_line(complaint.getvalue(), verb)) from None


def one_line(box: str, verb: str) -> str:
    """tyro's message without its frame: what is wrong, and what may have been meant."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)  # on a terminal the frame is coloured
    rows = [re.sub(r"[│╭╮╰╯]", " ", row).strip() for row in plain.splitlines()]
    paragraphs: list[list[str]] = [[]]
    for row in rows[1:]:
        if row and not row.strip("─"):
            paragraphs.append([])
        elif row:
            paragraphs[-1].append(row)
    complaint = " ".join(paragraphs[0])
    ours = re.sub(r"^Error parsing \w+: ", "", complaint)  # a section of the config, whose message is our own
    if ours != complaint:
        return ours
    meant = [p[1].split()[0].rstrip(",") for p in paragraphs[1:] if len(p) > 1 and p[0].startswith("Perhaps you meant")]
    return complaint + (f"; did you mean {meant[0]}?" if meant else f"; see `groundup {verb} --help`")
