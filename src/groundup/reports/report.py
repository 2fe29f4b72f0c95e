"""Write a report on runs: an HTML page, and Markdown with pictures."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from groundup.display.figure import picture_bytes
from groundup.errors import MissingExtraError
from groundup.reports.content import Preface, content, front
from groundup.reports.curves import lines_of
from groundup.reports.markdown import render_markdown
from groundup.reports.method import commands_of, report_command
from groundup.reports.page.write import render_page
from groundup.reports.pictures import figures_of
from groundup.reports.settings import Study, load_studies
from groundup.reports.tokenizers import read_tokenizer_report, tokenizer_chapters
from groundup.system.files import write_atomically

_PACKAGES = ("jinja2", "matplotlib", "plotly", "scipy")
_ABOUT = {"ends": "final results of all settings, with 95 % confidence intervals", "curves": "loss curves"}


def check_packages() -> None:
    """Check that the packages of the extra "report" are installed.

    Raises:
        MissingExtraError: one of them is not; it is named.
    """
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError.for_package(package, "report", "a report")


class Written(NamedTuple):
    """The files of a report and the studies in it."""

    page: Path
    markdown: Path
    images: list[Path]
    studies: list[Study]


def write_report(
    paths: Sequence[str | Path], out: Path | None = None, *, title: str = "", preface: Preface | None = None
) -> Written:
    """Read runs, sweeps and reports on tokenizers; write ``report.html``, ``report.md`` and ``images/`` into a folder.

    Args:
        out: the folder; by default ``report`` in the only folder of `paths`, or in the working directory.
        title: of the page; by default the name of the study, or the number of experiments.
        preface: text for the front page, if one command made all of the runs.

    Raises:
        FileMissingError: the folder does not exist.
        DataError: a folder contains no run.
        MissingExtraError: a package of the extra "report" is not installed.
    """
    check_packages()
    tokenizers = tokenizer_chapters(paths)
    studies = load_studies([path for path in paths if read_tokenizer_report(Path(path)) is None])
    preface = preface or Preface()
    out = out or (Path(paths[0]) / "report" if len(paths) == 1 and Path(paths[0]).is_dir() else Path("report"))
    names = [study.name for study in studies] + [chapter.name for chapter in tokenizers]
    title = title or (names[0] if len(names) == 1 else f"{len(names)} experiments")
    contents = [content(study, _commands(study, preface, report_command(paths, out))) for study in studies]
    lines = [lines_of(study) for study in studies]
    first = front(title, preface, studies, contents, tokenizers)
    page = render_page(first, studies, contents, lines, tokenizers)
    images: list[Path] = []
    named: list[list[tuple[str, str]]] = []
    (out / "images").mkdir(parents=True, exist_ok=True)
    for study, curves, stem in zip(studies, lines, _stems(studies), strict=True):
        named.append([])
        for kind, figure in figures_of(study, curves).items():
            for ending in ("svg", "png"):
                # Reproducible files: no date, and fixed identifiers.
                if ending == "svg":
                    from matplotlib import rc_context

                    with rc_context({"svg.hashsalt": stem}):
                        drawn = picture_bytes(figure, "svg", metadata={"Date": None})
                else:
                    drawn = picture_bytes(figure, "png", dpi=150)
                images.append(out / "images" / f"{stem}-{kind}.{ending}")
                write_atomically(images[-1], drawn)
            named[-1].append((f"images/{stem}-{kind}.png", f"{study.name}: {_ABOUT[kind]}"))
    pictures = []
    for number, chapter in enumerate(tokenizers):
        pictures.append(f"images/{chapter.name}-{number}.png" if chapter.picture else "")
        if chapter.picture:
            images.append(out / pictures[-1])
            write_atomically(images[-1], chapter.picture)
    write_atomically(out / "report.md", render_markdown(first, contents, tokenizers, named, pictures))
    write_atomically(out / "report.html", page)
    return Written(out / "report.html", out / "report.md", images, studies)


def _commands(study: Study, preface: Preface, report: str) -> list[str]:
    if preface.command:
        return [f"{preface.command} --only {shlex.quote(str(study.plan.get('file') or study.name))}"]
    return [*commands_of(study), report]


def _stems(studies: Sequence[Study]) -> list[str]:
    """A portable file name for each study."""
    stems: list[str] = []
    for study in studies:
        stem = re.sub(r"[^a-z0-9]+", "-", study.name.lower()).strip("-")[:40] or "study"
        stems.append(stem if stem not in stems else f"{stem}-{len(stems)}")
    return stems
