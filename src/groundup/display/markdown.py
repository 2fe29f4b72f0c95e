"""Markdown: text that is shown as it is, tables, and code blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WIDEST_PADDED = 30
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$])")


def line(text: str) -> str:
    """Escape text so that Markdown shows it unchanged, on one line."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(str(text).split()))
    return _SPECIAL.sub(r"\\\1", shown)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that also reads well as plain text: columns are padded, and columns of numbers are right-aligned."""
    cells = [[line(cell) for cell in row] for row in (header, *rows)]
    widths = [min(_WIDEST_PADDED, max(3, *map(len, column))) for column in zip(*cells, strict=True)]
    right = [bool(rows) and all(re.match(r"[-+±−]?\d|n/a|–|$", row[i]) for row in rows) for i in range(len(header))]

    def padded(row: Sequence[str]) -> str:
        return " | ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))

    rule = "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True))
    return "\n".join([f"| {padded(cells[0])} |", f"|{rule}|", *(f"| {padded(row)} |" for row in cells[1:])])


def fenced(text: str, language: str = "text") -> str:
    """A code block; its fence is longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def anchor(heading: str) -> str:
    """The link target of a heading, as GitHub makes it."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def capital(text: str) -> str:
    """The text with its first letter capitalized."""
    return text[:1].upper() + text[1:]
