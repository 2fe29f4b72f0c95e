"""`groundup report`."""

from __future__ import annotations

from pathlib import Path

from groundup.cli.parse import call
from groundup.errors import ConfigError


def report(arguments: list[str]) -> None:
    """Parse and run."""
    call(_report, arguments, "report")


def _report(
    runs: tuple[Path, ...] = (), /, *, out: Path | None = None, title: str = "", submission: bool = False
) -> None:
    """Write a report on runs and sweeps: a self-contained HTML page, and Markdown with pictures.

    groundup report runs/learning-rate --out docs/study

    Args:
        runs: run directories, sweep directories, or folders of them. Each sweep is a chapter; all other runs are one
            chapter, grouped by the options they differ in.
        out: the folder for report.html, report.md and images/. By default report/ in the only folder that is
            reported on, or in the working directory.
        title: of the page.
        submission: write what a leaderboard asks for, as submission.html and submission.md: one finished run, or the
            seeds of one configuration. The loss is that of the whole validation split, computed now unless the run
            has it.
    """
    if not runs:
        raise ConfigError("nothing to report on; give runs or sweeps, such as runs/NAME")
    from groundup.display.console import make_console

    if submission:
        from groundup.reports.submission import write_submission

        made = write_submission(runs, out, title=title)
        console = make_console()
        for name, value in made.results:
            console.print(f"{name}: {value}", markup=False)
        console.print(f"{made.page} and {made.markdown}", markup=False)
        return
    from groundup.reports.finding import finding
    from groundup.reports.report import write_report

    written = write_report(runs, out, title=title)
    console = make_console()
    for study in written.studies:
        console.print(f"{study.name}: {finding(study)}", markup=False)
    console.print(f"{written.page} ({written.page.stat().st_size / 1e6:.1f} MB) and {written.markdown}", markup=False)
