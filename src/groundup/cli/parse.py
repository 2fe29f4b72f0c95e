"""Arguments to Python values through tyro, with its boxed messages folded into our one line."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Callable
from typing import Any, TypeVar

import tyro

from groundup.errors import ConfigError

Result = TypeVar("Result")


def call(function: Callable[..., Result], arguments: list[str], verb: str) -> Result:
    """Call a function with parameters read from the command line; `--help` prints its docstring and exits.

    Raises:
        ConfigError: an unknown option, a value of the wrong type, or a missing one.
    """

    @functools.wraps(function)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], Result]:
        return lambda: function(*args, **kwargs)

    # Parsing only binds: what the function itself prints to standard error must not be taken for tyro's complaint.
    bound: Callable[[], Result] = parse(bind, arguments, verb)
    return bound()


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
