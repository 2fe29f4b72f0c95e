"""The options of commands that read text, and what they say about the inputs."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import tyro
from rich.console import Console
from rich.text import Text

from groundup.text.options import ReadOptions
from groundup.text.readers import TextReader, left_out_line

Reading: TypeAlias = Annotated[ReadOptions, tyro.conf.arg(name="")]
"""Flags of a command: one for each field of `ReadOptions`."""

DEFAULT_READING = ReadOptions()
_MOST_NOTES = 5


def say_left_out(console: Console, reader: TextReader) -> None:
    """Print what the walk through folders passed over."""
    if line := left_out_line(reader.left_out):
        console.print(Text(line), soft_wrap=True)


def say_how_read(console: Console, reader: TextReader) -> None:
    """Print what only reading could tell: how inputs were taken, and rows that were skipped."""
    lines = [f"note: {note}" for note in reader.notes[:_MOST_NOTES]]
    if len(reader.notes) > _MOST_NOTES:
        lines.append(f"note: and {len(reader.notes) - _MOST_NOTES} more inputs with notes like these")
    if skipped := reader.skipped_rows.count:
        first = "; ".join(map(str, reader.skipped_rows.first))
        lines.append(f"skipped {skipped:,} row{'s' * (skipped > 1)} without text; first: {first}")
    for line in lines:
        console.print(Text(" ".join(line.split())), soft_wrap=True)
