"""`groundup compare`."""

from __future__ import annotations

from pathlib import Path

from groundup.cli.parse import call


def compare(arguments: list[str]) -> None:
    """Parse and run."""
    call(_compare, arguments, "compare")


def _compare(first: str, second: str, /, *, html: Path | None = None) -> None:
    """Compare two runs: options, final figures, curves, and a test of their losses if there are several seeds.

    Args:
        first: a run. In a sweep, all seeds of its setting count; a folder of runs counts as all of them.
        second: another run.
        html: write an HTML page with the curves into this file.
    """
    from groundup.display.console import make_console, print_section
    from groundup.reports.comparison import compare_runs, comparison_sections, write_comparison

    study = compare_runs(first, second)
    console = make_console()
    for section in comparison_sections(study):
        print_section(console, *section)
    for run in study.runs:
        if run.problem:
            console.print(f"{run.name}: {run.problem}", markup=False)
    if html is not None:
        write_comparison(study, html, (first, second))
        console.print(f"wrote {html}", markup=False)
