"""What stands before the chapters of a report: all findings, what the whole cannot show, what it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from groundup.reports.content import Content, cost
from groundup.reports.settings import Study
from groundup.reports.tokenizers import TokenizerChapter


@dataclass(frozen=True)
class Preface:
    """What whoever ran several studies together has to say of them."""

    about: str = ""
    limits: Sequence[str] = ()
    """What all of them together cannot show."""
    command: str = ""
    """That makes everything again; with ``--only NAME``, one chapter of it."""


@dataclass(frozen=True)
class Front:
    """The first page."""

    title: str
    about: str
    limits: Sequence[str]
    command: str
    findings: list[tuple[str, str]]
    """Name and finding of each chapter."""
    cost: list[tuple[str, str]]


def front(
    title: str,
    preface: Preface,
    studies: Sequence[Study],
    contents: Sequence[Content],
    tokenizers: Sequence[TokenizerChapter],
) -> Front:
    """The first page of a report with these chapters."""
    runs = [run for study in studies for run in study.runs]
    return Front(
        title=title,
        about=preface.about,
        limits=preface.limits,
        command=preface.command,
        findings=[(c.name, c.finding) for c in contents] + [(c.name, c.finding) for c in tokenizers],
        cost=cost(runs, sum(len(study.cells) for study in studies)),
    )
