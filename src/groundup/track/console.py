"""The terminal, for a person who watches: the plan, a line of progress with the time left, and what is found."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from groundup.track.sink import Metrics

_SECONDS_BETWEEN_LINES = 10.0
_WIDTH_OF_FILES = 160
_WIDTH_FOR_A_BAR = 80


class _Console(Console):
    """Rich's console, which by itself ends the program when the reader of a pipe goes away."""

    def on_broken_pipe(self) -> None:
        # Whoever read has enough; the work that writes here may be worth finishing all the same.
        self.quiet = True


def make_console() -> Console:
    """A console as wide as the terminal; wide enough not to break lines where output goes to a file or pipe."""
    console = _Console(highlight=False)
    return console if console.is_terminal else _Console(highlight=False, width=_WIDTH_OF_FILES)


class ConsoleDisplay:
    """A live bar on a terminal; plain lines, not too many, where output goes to a file.

    Args:
        show_samples: print the texts the model writes during training.
    """

    def __init__(self, console: Console | None = None, *, show_samples: bool = True):
        self.console = console or make_console()
        self.show_samples = show_samples
        self._progress: Progress | None = None
        self._last_line = 0.0
        self._total = 0

    def begin(self, plan: Mapping[str, str], total_steps: int, done_steps: int) -> None:
        print_pairs(self.console, plan)
        self._total = total_steps
        if done_steps:
            self.note(f"going on from step {done_steps:,}")
        if self.console.is_terminal:
            bar = [BarColumn(bar_width=None)] if self.console.width >= _WIDTH_FOR_A_BAR else []
            self._progress = Progress(
                TextColumn("[bold]step"),
                MofNCompleteColumn(),
                *bar,
                TextColumn("{task.fields[numbers]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
                speed_estimate_period=120,
            )
            self._task = self._progress.add_task("", total=total_steps, completed=done_steps, numbers="")
            self._progress.start()

    def step(self, step: int, loss: float) -> None:
        if self._progress:
            self._progress.update(self._task, completed=step)

    def metrics(self, line: Metrics) -> None:
        numbers = _numbers(line)
        if self._progress and "train_loss" in line:
            self._progress.update(self._task, numbers=numbers)
        due = time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES and not self._progress
        if "val_loss" in line or due:
            self._last_line = time.monotonic()
            self.note(f"step {line['step']:>{len(str(self._total))}}  {_validation(line) or numbers}")

    def sample(self, line: Metrics) -> None:
        if self.show_samples:
            heading = f"written at step {line['step']:,}:"
            text = Text((line["prompt"] + line["text"]).strip(), style="italic")
            self.console.print(Text(heading, style="dim"), text)

    def note(self, text: str) -> None:
        self.console.print(Text(text))

    def close(self) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None


def print_pairs(console: Console, pairs: Mapping[str, object]) -> None:
    """Names and values in two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(name, Text(str(value)))
    console.print(table)


def _numbers(line: Metrics) -> str:
    parts = []
    if "train_loss" in line:
        parts = [f"loss {line['train_loss']:.3f}", f"{line['tokens_per_second']:,.0f} tok/s"]
        if line["mfu"] is not None:
            parts.append(f"MFU {line['mfu']:.1%}")
    return "  ".join(parts)


def _validation(line: Metrics) -> str:
    if "val_loss" not in line:
        return ""
    parts = [f"valid loss {line['val_loss']:.4f}", f"perplexity {line['val_perplexity']:,.2f}"]
    if line["val_bpb"] is not None:
        parts.append(f"{line['val_bpb']:.4f} bits/byte")
    if "train_loss" in line:
        parts.append(f"(train {line['train_loss']:.4f}, {line['tokens_per_second']:,.0f} tok/s)")
    return "  ".join(parts)
