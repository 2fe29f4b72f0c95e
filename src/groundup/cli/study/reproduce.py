"""`groundup reproduce`: the published study, from text to report."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from groundup.cli.parse import call


def reproduce(arguments: list[str]) -> int:
    """Parse and run; return 0, 1 if a trial has crashed for good, or 128 + the signal that stopped it."""
    return call(_reproduce, arguments, "reproduce")


def _reproduce(
    *,
    budget: Literal["minutes", "laptop", "paper"] = "minutes",
    data: Path | None = None,
    directory: Path | None = None,
    out: Path | None = None,
    workers: int | None = None,
    only: tuple[str, ...] = (),
) -> int:
    """Run the published study: learning rate, batch size, ablations, two texts, the ladder of speed; then report on it.
    After an interruption, the same command resumes.

    groundup reproduce --budget minutes --data texts

    Args:
        budget: minutes, on two CPU cores; laptop, hours; paper, the original size, for a GPU.
        data: a folder with stories/ (or tinystories/) and web/ (or webtext/), each with train and valid as .txt, .jsonl
            or .parquet, also .zst and .gz. Without it, built-in stories are used, and plans that need web text are left
            out.
        directory: folder of the study; default: runs/study-BUDGET.
        out: folder for the report; default: report/ in the study's folder.
        workers: trials at once; default: one for each GPU, or else each CPU core.
        only: names of plans; all others are left out.
    """
    from groundup.display.console import make_console
    from groundup.studies.reproduce import reproduce_study

    return reproduce_study(
        make_console(), budget=budget, data=data, directory=directory, out=out, workers=workers, only=only
    )
