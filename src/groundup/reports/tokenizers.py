"""Chapter of a report on the output of `groundup tokenizer report`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.display.section import Section
from groundup.errors import DataError
from groundup.reports.finding import listed
from groundup.studies.tokenizer_report.folder import JSON_FILE, PLOT_FILE
from groundup.studies.tokenizer_report.measure import FORMAT
from groundup.studies.tokenizer_report.tables import description, machine, tables
from groundup.system.files import is_as_sealed, read_json

NAME, QUESTION = "tokenizers", "How well does a tokenizer trained on one text compress another?"


@dataclass(frozen=True)
class TokenizerChapter:
    """A tokenizer report as text, tables and one picture."""

    name: str
    question: str
    finding: str
    about: str
    machine: str
    tables: list[Section]
    picture: bytes | None
    """PNG."""


def tokenizer_chapters(paths: Sequence[str | Path]) -> list[TokenizerChapter]:
    """Chapters for all tokenizer reports in these folders or directly below them.

    Raises:
        DataError: one of them is damaged.
    """
    found = {}
    for given in paths:
        folder = next((place for place in (Path(given), "runs" / Path(given)) if os.path.isdir(place)), None)
        for place in [folder, *sorted(folder.iterdir())] if folder else []:
            report = read_tokenizer_report(place)
            if report is not None:
                found[place.resolve()] = _chapter(place, report)
    return list(found.values())


def read_tokenizer_report(place: Path) -> dict[str, Any] | None:
    """The report that `groundup tokenizer report` wrote into a folder; None if there is none.

    Raises:
        DataError: it was changed.
    """
    try:
        report = read_json(place / JSON_FILE)
    except (OSError, ValueError):
        return None
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        return None
    if not is_as_sealed(report):
        raise DataError(f"{place / JSON_FILE} was changed after it was written; make it again, or leave it out")
    return report


def _chapter(place: Path, report: dict[str, Any]) -> TokenizerChapter:
    picture = place / PLOT_FILE
    try:
        return _words(report, picture.read_bytes() if picture.is_file() else None)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise DataError(
            f"{place / JSON_FILE} is damaged ({type(error).__name__}: {error}); make it again, or leave it out"
        ) from None


def _words(report: dict[str, Any], picture: bytes | None) -> TokenizerChapter:
    return TokenizerChapter(
        name=NAME,
        question=QUESTION,
        finding=" ".join(_findings(report)),
        about=description(report) + ".",
        machine=machine(report),
        tables=[Section(t.title, tuple(t.columns), [tuple(row) for row in t.rows], t.note) for t in tables(report)],
        picture=picture,
    )


def _findings(report: dict[str, Any]) -> Iterator[str]:
    """For each text, its tokenizer's bytes per token compared with the others."""
    for corpus in report["corpora"]:
        rates = {
            row["tokenizer"]: row["held_out"]["bytes_per_token"]
            for row in report["compression"]
            if row["corpus"] == corpus["name"]
        }
        own = rates.pop(corpus["name"], None)
        if own is None:
            continue
        others = [f"that of {name} {rate:.2f} ({rate / own - 1:+.0%})" for name, rate in rates.items()]
        beside = f", {listed(others)}" if others else ""
        yield f"On held-out {corpus['name']} the tokenizer trained on it reaches {own:.2f} bytes per token{beside}."
