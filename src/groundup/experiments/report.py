"""A report on runs: one page to read, and Markdown with pictures for a repository."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from groundup.experiments.report_content import content, report_command
from groundup.experiments.report_curves import lines_of
from groundup.experiments.report_markdown import render_markdown
from groundup.experiments.report_page import render_page
from groundup.experiments.report_plot import figures_of
from groundup.experiments.study import Study, load_studies
from groundup.files import write_atomically

_ABOUT = {"ends": "the ends of all cells, with intervals", "curves": "curves of the loss"}


class Written(NamedTuple):
    """What a report consists of."""

    page: Path
    markdown: Path
    images: list[Path]
    studies: list[Study]


def write_report(paths: Sequence[str | Path], out: Path | None = None, *, title: str = "") -> Written:
    """Read runs and sweeps, and write ``report.html``, ``report.md`` and ``images/`` into a folder.

    Args:
        out: the folder; by default ``report`` in the folder that is reported on, or here where several are.
        title: of the page; by default what the runs are called.

    Raises:
        FileMissingError: there is no such folder.
        DataError: nothing in it is a run.
        MissingExtraError: a package of the extra "report" is not installed.
    """
    studies = load_studies(paths)
    out = out or (Path(paths[0]) / "report" if len(paths) == 1 and Path(paths[0]).is_dir() else Path("report"))
    title = title or (studies[0].name if len(studies) == 1 else f"{len(studies)} experiments")
    contents = [content(study, report_command(paths, out)) for study in studies]
    lines = [lines_of(study) for study in studies]
    page = render_page(studies, contents, lines, title)
    images: list[Path] = []
    named: list[list[tuple[str, str]]] = []
    (out / "images").mkdir(parents=True, exist_ok=True)
    for study, curves, stem in zip(studies, lines, _stems(studies), strict=True):
        named.append([])
        for kind, figure in figures_of(study, curves).items():
            for ending in ("svg", "png"):
                file = io.BytesIO()
                # The same report gives the same file: no date, and identifiers that do not change.
                if ending == "svg":
                    from matplotlib import rc_context

                    with rc_context({"svg.hashsalt": stem}):
                        figure.savefig(file, format="svg", metadata={"Date": None})
                else:
                    figure.savefig(file, format="png", dpi=150)
                images.append(out / "images" / f"{stem}-{kind}.{ending}")
                write_atomically(images[-1], file.getvalue())
            named[-1].append((f"images/{stem}-{kind}.png", f"{study.name}: {_ABOUT[kind]}"))
    write_atomically(out / "report.md", render_markdown(contents, named, title))
    write_atomically(out / "report.html", page)
    return Written(out / "report.html", out / "report.md", images, studies)


def _stems(studies: Sequence[Study]) -> list[str]:
    """Names of files, one for each study, of letters that every system takes."""
    stems: list[str] = []
    for study in studies:
        stem = re.sub(r"[^a-z0-9]+", "-", study.name.lower()).strip("-")[:40] or "study"
        stems.append(stem if stem not in stems else f"{stem}-{len(stems)}")
    return stems
