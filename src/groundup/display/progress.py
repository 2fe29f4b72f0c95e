"""Progress of long work, counted in bytes or steps: the protocol that library functions report to, and a bar."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console


class Update(Protocol):
    """Show how far work has come."""

    def __call__(self, what: str, done: int, total: int | None, extra: str = "") -> None: ...


class Progress(Update, Protocol):
    """Progress of a library function, and lines for the user in between; `progress_bar` gives one."""

    def note(self, text: str) -> None:
        """Print a line, whether a bar is shown or not."""


class Silent:
    """Progress that is not shown."""

    def __call__(self, what: str, done: int, total: int | None, extra: str = "") -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Print nothing."""


@contextmanager
def progress_bar(console: Console) -> Iterator[Progress]:
    """A bar with the time left, gone when the work is done; notes alone where output goes to a file."""
    from rich import progress
    from rich.text import Text

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=None),
        progress.TextColumn("{task.percentage:>3.0f}%"),
        progress.TextColumn("{task.fields[extra]}"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("·"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("left"),
    )

    class Bar:
        def __call__(self, what: str, done: int, total: int | None, extra: str = "") -> None:
            if shown.tasks[0].description != what:
                shown.reset(task, description=what)
            shown.update(task, completed=done, total=total, extra=extra)

        def note(self, text: str) -> None:
            console.print(Text(text), soft_wrap=True)

    # What is printed on the same terminal goes above the bar. Rich would send it there from a pipe or file, too.
    with progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=sys.stdout.isatty()
    ) as shown:
        task = shown.add_task("", total=None, extra="")
        yield Bar()
