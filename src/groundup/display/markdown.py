"""Markdown: text that is shown as it is, tables, and code blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from groundup.display.section import Section

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$])")


def line(text: str) -> str:
    """Escape text so that Markdown shows it unchanged, on one line."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(str(text).split()))
    return _SPECIAL.sub(r"\\\1", shown)


def table(section: Section) -> str:
    """A section's header and rows as a table; title and note are left out."""
    return "\n".join([_row(section.header), f"|{' --- |' * len(section.header)}", *map(_row, section.rows)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(line(cell) or ' ' for cell in cells)} |"


def fenced(text: str) -> str:
    """A code block; its fence is longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def anchor(heading: str) -> str:
    """The link target of a heading, as GitHub makes it."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def capital(text: str) -> str:
    """The text with its first letter capitalized."""
    return text[:1].upper() + text[1:]
