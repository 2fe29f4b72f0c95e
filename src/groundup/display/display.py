"""Displays and sinks: what a training run reports to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

Metrics = Mapping[str, Any]
"""Flat: names to numbers, with ``step`` among them."""


class Sink(Protocol):
    """Destination of a run's metrics and samples."""

    def metrics(self, line: Metrics) -> None:
        """Take one flat set of numbers, belonging to ``line["step"]``."""

    def sample(self, line: Metrics) -> None:
        """Take one text written by the model: ``step``, ``prompt``, ``text`` and the sampling settings."""

    def close(self) -> None:
        """End: the run is over, or has stopped."""


class Display(Sink, Protocol):
    """Sink that a person watches during the run."""

    def begin(self, plan: Mapping[str, str], total_steps: int, done_steps: int) -> None:
        """Show the resolved run, before its first step; its total is 0 if the number of steps is not known yet."""

    def step(self, step: int, loss: float) -> None:
        """Count one more step."""

    def expect(self, total_steps: int) -> None:
        """Correct the estimated number of all steps of a run that ends by its time."""

    def note(self, text: str) -> None:
        """Show one line: a checkpoint, an interruption."""


class Silent:
    """Display that shows nothing."""

    def begin(self, plan: Mapping[str, str], total_steps: int, done_steps: int) -> None: ...
    def step(self, step: int, loss: float) -> None: ...
    def expect(self, total_steps: int) -> None: ...
    def note(self, text: str) -> None: ...
    def metrics(self, line: Metrics) -> None: ...
    def sample(self, line: Metrics) -> None: ...
    def close(self) -> None: ...


def automatic_display() -> Display | None:
    """A display if someone watches: standard output is a terminal or a notebook."""
    from groundup.display.console import ConsoleDisplay, make_console

    console = make_console()
    return ConsoleDisplay(console) if console.is_terminal or console.is_jupyter else None
