"""Parsing of arguments into Python values with tyro, whose boxed messages become one line."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import re
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import tyro
from tyro.conf import FlagCreatePairsOff
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from groundup.errors import ConfigError
from groundup.text.options import ReadOptions

Result = TypeVar("Result")
Reading: TypeAlias = Annotated[ReadOptions, tyro.conf.arg(name="")]
"""Flags of a verb that reads text: one for each field of `ReadOptions`."""
DEFAULT_READING = ReadOptions()

_RULES = ConstructorRegistry()
"""How values are read and named in help, where tyro's own messages are those of a program."""


@_RULES.primitive_rule
def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    kind: Any = info.type
    if kind not in (int, float):
        return None

    def read(words: list[str]) -> Any:
        try:
            return kind(words[0])
        except ValueError:
            raise ValueError(f"{words[0]}; expected a {'whole ' if kind is int else ''}number") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="N" if kind is int else "X",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, int if kind is int else (int, float)),
        str_from_instance=lambda value: [str(value)],
    )


@_RULES.primitive_rule
def _text(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if info.type is not str:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="TEXT",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
    )


@_RULES.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """``X | None`` as X: None is the default of an option that is not given, and cannot be written."""
    kinds = typing.get_args(info.type)
    if type(None) not in kinds or info.type_origin not in (typing.Union, types.UnionType):
        return None
    rest: Any = typing.Union[tuple(kind for kind in kinds if kind is not type(None))]  # noqa: UP007
    inner = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(rest, info.markers))
    if not isinstance(inner, PrimitiveConstructorSpec):
        return None
    return dataclasses.replace(
        inner,
        is_instance=lambda value: value is None or inner.is_instance(value),
        str_from_instance=lambda value: ["unset"] if value is None else inner.str_from_instance(value),
    )


def _in_words(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function for help: arguments by their names, and no default that says nothing."""
    found, helps = typing.get_type_hints(function, include_extras=True), _helps(function)
    for name, parameter in inspect.signature(function).parameters.items():
        default, several = parameter.default, typing.get_origin(found[name]) is tuple
        metavar = None
        if parameter.kind is parameter.POSITIONAL_ONLY:
            metavar = f"{name.upper().removesuffix('S')} ..." if several else name.upper()
            metavar = metavar if default is parameter.empty else f"[{metavar}]"
        elif several:
            metavar = f"{'TEXT' if typing.get_args(found[name])[0] is str else 'PATH'} ..."
        says_nothing = default is None or default in ("", ()) or (several and default is parameter.empty)
        told = tyro.conf.arg(
            metavar=metavar, help_behavior_hint="" if says_nothing else None, help=helps.get(name),
            aliases=["--json"] if name == "json_output" and found[name] is bool else None,  # its name elsewhere
        )  # fmt: skip
        found[name] = Annotated[found[name], told]
    return found


def _helps(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstring says about each argument, without its line breaks."""
    section = (inspect.getdoc(function) or "").partition("\nArgs:\n")[2]
    entries = (entry.partition(": ") for entry in re.split(r"^    (?=\S)", section, flags=re.MULTILINE))
    return {name.strip(): " ".join(text.split()) for name, _, text in entries if text}


def _description(function: Callable[..., Any]) -> str:
    """The docstring up to its arguments; commands, which stand alone on their lines, stay there."""
    about = (inspect.getdoc(function) or "").partition("\nArgs:\n")[0].strip()
    paragraphs = about.split("\n\n")
    return "\n\n".join(
        textwrap.indent(paragraph, "  ") if paragraph.startswith("groundup ") else paragraph for paragraph in paragraphs
    )


def call(function: Callable[..., Result], arguments: list[str], verb: str) -> Result:
    """Call a function with parameters read from the command line; `--help` prints its docstring and exits.

    Raises:
        ConfigError: an unknown option, a value of the wrong type, or a missing one.
    """

    @functools.wraps(function)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], Result]:
        return lambda: function(*args, **kwargs)

    del bind.__wrapped__  # tyro would read the annotations of the function itself
    hints = _in_words(function)
    parameters = [one.replace(annotation=hints[name]) for name, one in inspect.signature(function).parameters.items()]
    bind.__annotations__, bind.__signature__ = hints, inspect.Signature(parameters)  # type: ignore[attr-defined]
    _refuse_empty_paths(function, arguments)
    # Parsing only binds: what the function itself prints to standard error must not be taken for tyro's complaint.
    given = _without_values(arguments, _switches(function))
    bound: Callable[[], Result] = parse(bind, given, verb, description=_description(function))
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
    complaint, help_text = io.StringIO(), _HelpText({"-h", "--help"} & set(arguments))
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(help_text):
            return tyro.cli(target, args=arguments, prog=f"groundup {verb}", registry=_RULES, **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            print(_wrapped(help_text.getvalue()), end="")
            raise
        raise ConfigError(one_line(complaint.getvalue(), verb)) from None


class _HelpText(io.StringIO):
    """Holds the help, with boxes and colours as they suit the standard output. Those of a complaint, which
    :func:`one_line` takes off, are always the same.
    """

    def __init__(self, asked: Collection[str]) -> None:
        super().__init__()
        self._out = sys.stdout
        self._encoding = str(self._out.encoding).lower() if asked else "utf-8"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._out.isatty()


def _wrapped(text: str) -> str:
    """Help whose description is broken at the width of the terminal, which tyro does only inside its boxes."""
    width = shutil.get_terminal_size().columns
    head, box, boxes = text.partition("╭")
    lines = []
    for line in head.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        is_command = line.startswith("  ")
        fits = len(line) <= width or "\x1b" in line or is_command
        lines += [line] if fits else textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)
    colours = r"(?:\x1b\[[\d;]*m)*"
    between = r"((?:\x1b\[[\d;]*m|[ │\n])*)"  # also over the end of a row
    boxes = re.sub(rf"\(default:{between}(unset)?\)", lambda m: " " * 9 + m[1] + " " * len(f"{m[2] or ''})"), boxes)
    empty_row = rf"\n{colours}│(?:{colours} )*{colours}│{colours}(?=\n)"  # a text that just fills its row leaves one
    boxes = re.sub(empty_row, "", boxes)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + box + boxes


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
    meant = [p[1].split()[0].rstrip(",") for p in paragraphs[1:] if len(p) > 1 and p[0].startswith("Perhaps you meant")]
    said = _in_our_words(complaint)
    if meant:
        return f"{said}; did you mean {meant[0]}?"
    is_whole = "; expected" in said or re.match(r"Error parsing \w+: ", complaint)
    return said if is_whole else f"{said}; see `groundup {verb} --help`"


def _in_our_words(complaint: str) -> str:
    if found := re.match(r"Error parsing (\S+): ", complaint):
        name, said = found[1].strip("[]"), complaint[found.end() :]
        # A message on a section of the config is our own, and names the option.
        return f"{name} {said}" if name.startswith("--") or name.isupper() else said
    if found := re.match(r"Missing value for argument '(\S+)'", complaint):
        return f"{found[1]} needs a value"
    if found := re.match(r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*)\)", complaint):
        return f"{found[2]} {found[1]}; expected one of {found[3].replace(chr(39), '').rstrip(',')}"
    if found := re.match(r"Unrecognized options: ([^\s,]+)", complaint):
        return f"unknown option {found[1]}" if found[1].startswith("-") else f"unexpected argument {found[1]!r}"
    if found := re.match(r"Missing from [^:]*: ", complaint):
        described = complaint[found.end() :].split("(required)")[:-1]
        names = [re.match(r"\s*(--\S+ \S+|\S+)", one) for one in described]
        return f"{' and '.join(name[1] for name in names if name)} must be given"
    return complaint
