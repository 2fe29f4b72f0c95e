"""Progress bars for work that is counted in bytes or steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Update(Protocol):
    """Show how far work has come."""

    def __call__(self, what: str, done: int, total: int | None, extra: str = "") -> None: ...


@contextmanager
def progress_bar(console: Console) -> Iterator[Update]:
    """A bar with the time left, gone when the work is done; nothing where output goes to a file."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[extra]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None, extra="")

        def update(what: str, done: int, total: int | None, extra: str = "") -> None:
            if progress.tasks[0].description != what:
                progress.reset(task, description=what)
            progress.update(task, completed=done, total=total, extra=extra)

        yield update
