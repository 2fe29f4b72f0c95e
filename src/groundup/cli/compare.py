"""`groundup compare`."""

from __future__ import annotations

from pathlib import Path

from groundup.cli.parse import call


def compare(arguments: list[str]) -> None:
    """Parse and run."""
    call(_compare, arguments, "compare")


def _compare(first: str, second: str, /, *, html: Path | None = None) -> None:
    """Two runs side by side: options, figures, curves, and a test of their losses where there are seeds.

    Args:
        first: a run. Of a sweep, all seeds of its cell are taken; a folder of runs stands for all of them.
        second: another one.
        html: write a page with their curves into this file.
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
        console.print(f"drawn into {html}", markup=False)
