"""`groundup data show`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from groundup.cli.parse import call
from groundup.display.console import make_console

if TYPE_CHECKING:
    from rich.console import Console

    from groundup.data.describe import Document

_TOKEN_COLORS = ("black on #bcd9ff", "black on #ffd9a8")  # distinct with red-green colour blindness too


def show(arguments: list[str]) -> None:
    """Parse and run."""
    call(_show, arguments, "data show")


def _show(path: Path, number: int = 0, /, *, ids: bool = False) -> None:
    """Show one document as text, with its tokens in alternating colours.

    Where output goes to a file or pipe, one token a line: its id, and its text quoted. Of a conversation, tokens that
    count for the loss have a + before the text, and on a terminal the others are dim.

    Args:
        path: folder of token shards.
        number: number of the document, from 0; -1 is the last.
        ids: one token a line on a terminal too.
    """
    from groundup.data.describe import read_document

    console = make_console()
    document = read_document(path, number)
    if ids or not console.is_terminal:
        for piece in document.pieces:
            shown = piece.text if piece.is_special else repr(piece.text)
            mark = ("+ " if piece.counts else "  ") if document.has_mask else ""
            print(f"{' '.join(map(str, piece.ids)):>7}  {mark}{shown}")
        return
    _print_document(console, path, document)


def _print_document(console: Console, path: Path, document: Document) -> None:
    heading = (
        f"{path}: document {document.number:,} of {document.documents:,}, {document.tokens:,} tokens from "
        f"{document.start:,} on"
    )
    console.print(Text(heading, style="dim"))
    text = Text()
    for place, piece in enumerate(document.pieces):
        style = "bold reverse" if piece.is_special else _TOKEN_COLORS[place % 2]
        style += "" if piece.counts else " dim"
        # A token that is a line break would show no colour at all.
        text.append(_visible(piece.text), style=style)
    console.print(text, soft_wrap=False)


def _visible(text: str) -> str:
    shown = "".join(c if c.isprintable() or c == "\n" else "\t" if c == "\t" else "\ufffd" for c in text)
    return shown.replace("\t", "⇥   ").replace("\n", "⏎\n")
