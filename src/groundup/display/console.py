"""The terminal, for a person who watches: the plan, a line of progress with the time left, and what is found."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from groundup.display.display import Metrics
from groundup.display.units import size_text

_SECONDS_BETWEEN_LINES = 10.0
_WIDTH_OF_FILES = 160


class _Console(Console):
    """Rich's console, which by itself ends the program when the reader of a pipe goes away.

    Nor does it hold back escape codes in a text, such as the name of a run, with which a terminal can be made to show
    anything: they are written out.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text = segment.text
            if not segment.control and not text.replace("\n", "").isprintable():
                shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
                segment = Segment(shown, segment.style)
            yield segment

    def on_broken_pipe(self) -> None:
        # The reader has enough, but the work that writes here may be worth finishing.
        self.quiet = True


def make_console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal or notebook; wide enough not to break lines in a file or pipe."""
    console = _Console(highlight=False, stderr=stderr)
    if console.is_terminal or console.is_jupyter:
        return console
    return _Console(highlight=False, width=_WIDTH_OF_FILES, stderr=stderr)


def _can_show_a_bar(console: Console) -> bool:
    """Whether rich can draw a line anew: on a terminal, and in a notebook with ipywidgets."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


class ConsoleDisplay:
    """A live bar on a terminal or in a notebook; plain lines, not too many, where output goes to a file.

    Args:
        show_samples: print the texts the model writes during training.
    """

    def __init__(self, console: Console | None = None, *, show_samples: bool = True):
        self.console = console or make_console()
        self.show_samples = show_samples
        self._progress: _BarAndNumbers | None = None
        self._last_line = 0.0
        self._total = 0
        self._plan: Mapping[str, str] = {}

    def begin(self, plan: Mapping[str, str], total_steps: int, done_steps: int) -> None:
        # A second session in this process shows what is new in its plan.
        print_pairs(self.console, {key: value for key, value in plan.items() if self._plan.get(key) != value})
        self._plan = plan
        self._total = total_steps
        if done_steps:
            self.note(f"resuming from step {done_steps:,}")
        if _can_show_a_bar(self.console):
            self._progress = _BarAndNumbers(
                TextColumn("[bold]step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=None),
                TimeElapsedColumn(),
                TextColumn("·"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=self.console,
                speed_estimate_period=120,
            )
            self._task = self._progress.add_task("", total=total_steps or None, completed=done_steps)
            self._progress.start()

    def step(self, step: int, loss: float) -> None:
        if self._progress:
            self._progress.update(self._task, completed=step)

    def expect(self, total_steps: int) -> None:
        self._total = total_steps
        if self._progress:
            self._progress.update(self._task, total=total_steps)

    def metrics(self, line: Metrics) -> None:
        numbers = _numbers(line)
        if self._progress and numbers:
            self._progress.numbers = numbers
        due = numbers and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES and not self._progress
        if "val_loss" in line or due:
            self._last_line = time.monotonic()
            said = _validation(line, speed=not self._progress) or numbers
            self.note(f"step {line['step']:>{len(str(self._total))}}  {said}")

    def sample(self, line: Metrics) -> None:
        if self.show_samples:
            heading = f"sample at step {line['step']:,}:"
            text = Text((line["prompt"] + line["text"]).strip(), style="italic")
            self.console.print(Text(heading, style="dim"), text)

    def note(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)  # a command that it names must not be broken

    def close(self) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None


class _BarAndNumbers(Progress):
    """The bar, and under it the latest numbers, which beside it would leave no room for either."""

    numbers = ""

    def get_renderable(self) -> RenderableType:
        if not self.numbers:
            return super().get_renderable()
        return Group(super().get_renderable(), Text(self.numbers, no_wrap=True, overflow="ellipsis"))


def print_pairs(console: Console, pairs: Mapping[str, object]) -> None:
    """Names and values in two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(name, Text(str(value)))
    _print_table(console, table)


def _print_table(console: Console, table: Table | Padding) -> None:
    """Print a table; in a file or a pipe without the blanks that fill its last column."""
    if console.is_terminal or console.is_jupyter:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    text = "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
    console.out(text, end="", highlight=False)


def print_section(
    console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], note: str = ""
) -> None:
    """A table with its title above and a note below, narrow enough for 80 columns.

    Args:
        header: names of the columns; empty for names and values.
        rows: cells in the order of the columns. Numbers in a table of more than two columns stand at the right.
    """
    table = Table(box=None, show_header=bool(header), header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    columns = list(zip(*rows, strict=True))
    for i, cells in enumerate(columns):
        numbers = len(columns) > 2 and i > 0 and all(cell[:1].isdigit() for cell in cells if cell)
        table.add_column(
            header[i] if header else "", justify="right" if numbers else "left", no_wrap=i == 0, overflow="fold"
        )
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(Text(title, style="bold"))
    _print_table(console, Padding(table, (0, 0, 0, 2), expand=False))
    if note:
        _print_table(console, Padding(Text(note, style="dim"), (0, 0, 0, 2), expand=False))
    console.print()


def _numbers(line: Metrics) -> str:
    """What a person looks at while a run goes on; it fits 80 columns."""
    if line.get("train_loss") is None:  # of a run that has diverged there is none
        return ""
    parts = [f"loss {line['train_loss']:.3f}", f"gradient norm {line['grad_norm']:.2g}"]
    parts.append(f"{line['tokens_per_second']:,.0f} tokens/s")
    if line.get("mfu") is not None:
        parts.append(f"MFU {line['mfu']:.1%}")
    if "peak_memory" in line:
        parts.append(f"memory {size_text(line['peak_memory'])}")
    return "  ".join(parts)


def _validation(line: Metrics, *, speed: bool) -> str:
    """What an evaluation found; without the speed, which stands under the bar, it fits 80 columns."""
    if "val_loss" not in line:
        return ""
    train = f" (train {line['train_loss']:.4f})" if "train_loss" in line else ""
    parts = [f"valid loss {line['val_loss']:.4f}{train}", f"perplexity {line['val_perplexity']:,.2f}"]
    if line["val_bpb"] is not None:
        parts.append(f"{line['val_bpb']:.4f} bits/byte")
    if speed and train:
        parts.append(f"{line['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)
