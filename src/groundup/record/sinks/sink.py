"""What a sink is, and what a display adds to it."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any, Protocol

Metrics = Mapping[str, Any]
"""Flat: names to numbers, with ``step`` among them."""


class Sink(Protocol):
    """Takes what a run reports."""

    def metrics(self, line: Metrics) -> None:
        """One flat set of numbers, belonging to ``line["step"]``."""

    def sample(self, line: Metrics) -> None:
        """One text written by the model: ``step``, ``prompt``, ``text`` and the sampling settings."""

    def close(self) -> None:
        """The run is over, or has stopped."""


class Display(Sink, Protocol):
    """A sink that a person watches while the run goes on."""

    def begin(self, plan: Mapping[str, str], total_steps: int, done_steps: int) -> None:
        """The run as it was resolved, before its first step."""

    def step(self, step: int, loss: float) -> None:
        """One more step is done."""

    def note(self, text: str) -> None:
        """Something worth a line: a checkpoint, an interruption."""


class Sinks:
    """Several sinks as one."""

    def __init__(self, sinks: Iterable[Sink]):
        self.sinks = list(sinks)

    def metrics(self, line: Metrics) -> None:
        for sink in self.sinks:
            sink.metrics(line)

    def sample(self, line: Metrics) -> None:
        for sink in self.sinks:
            sink.sample(line)

    def close(self) -> None:
        with ExitStack() as closing:  # one that cannot be closed leaves no other open
            for sink in reversed(self.sinks):
                closing.callback(sink.close)


class Silent:
    """A display that shows nothing."""

    def begin(self, plan: Mapping[str, str], total_steps: int, done_steps: int) -> None: ...
    def step(self, step: int, loss: float) -> None: ...
    def note(self, text: str) -> None: ...
    def metrics(self, line: Metrics) -> None: ...
    def sample(self, line: Metrics) -> None: ...
    def close(self) -> None: ...
