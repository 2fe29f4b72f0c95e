"""The Markdown form of a report, for a repository; it shows the pictures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from groundup.display.markdown import anchor, capital, fenced, line, table
from groundup.display.section import Section
from groundup.errors import MissingExtraError
from groundup.reports.content import Content, Front
from groundup.reports.tokenizers import TokenizerChapter


def render_markdown(
    front: Front,
    contents: Sequence[Content],
    tokenizers: Sequence[TokenizerChapter],
    images: Sequence[Sequence[tuple[str, str]]],
    tokenizer_images: Sequence[str],
) -> str:
    """The Markdown of a report.

    Args:
        images: file and description of each picture, by study.
        tokenizer_images: file of the picture of each chapter on tokenizers; empty if it has none.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError.for_package("jinja2", "report", "a report") from None
    # `line` and `table` escape everything that Markdown or HTML would interpret.
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"line": line, "table": _table, "fenced": fenced, "anchor": anchor, "capital": capital}
    template = (resources.files("groundup.reports") / "page" / "report.md").read_text(encoding="utf-8")
    text = environment.from_string(template).render(
        front=front, studies=contents, tokenizers=tokenizers, images=images, tokenizer_images=tokenizer_images
    )
    return str(text).rstrip() + "\n"


def _table(section: Section) -> str:
    return table(section.header, section.rows)
