"""The report for a repository: Markdown that shows the pictures beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources

from groundup.display.section import Section
from groundup.errors import MissingExtraError
from groundup.reports.content import Content
from groundup.reports.front import Front
from groundup.reports.tokenizers import TokenizerChapter

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$])")


def render_markdown(
    front: Front,
    contents: Sequence[Content],
    tokenizers: Sequence[TokenizerChapter],
    images: Sequence[Sequence[tuple[str, str]]],
    tokenizer_images: Sequence[str],
) -> str:
    """The Markdown of a report.

    Args:
        images: of each study, files and what they show.
        tokenizer_images: of each chapter on tokenizers, the file of its picture; empty where it has none.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError.for_package("jinja2", "report", "a report") from None
    # No HTML comes out of it that was not escaped: `line` and `row` escape what Markdown would take for markup.
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {
        "line": line, "row": row, "table": table, "fenced": fenced, "anchor": anchor, "capital": capital,
    }  # fmt: skip
    template = (resources.files("groundup.reports") / "page" / "report.md").read_text(encoding="utf-8")
    text = environment.from_string(template).render(
        front=front, studies=contents, tokenizers=tokenizers, images=images, tokenizer_images=tokenizer_images
    )
    return str(text).rstrip() + "\n"


def line(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(str(text).split()))
    return _SPECIAL.sub(r"\\\1", shown)


def row(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(line(cell) or ' ' for cell in cells)} |"


def table(section: Section) -> str:
    """A whole table."""
    return "\n".join([row(section.header), f"|{' --- |' * len(section.header)}", *map(row, section.rows)])


def capital(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def fenced(text: str) -> str:
    """A block that shows the text as it is: its fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def anchor(heading: str) -> str:
    """The name by which a heading is linked to, as GitHub makes it."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")
