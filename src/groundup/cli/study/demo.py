"""`groundup demo`: the whole way, on text that groundup writes itself."""

from __future__ import annotations

from pathlib import Path

from groundup.cli.parse import call


def demo(arguments: list[str]) -> int:
    """Parse and run."""
    return call(_demo, arguments, "demo")


def _demo(*, data: Path = Path("data/demo"), minutes: float = 2.5, steps: int | None = None, seed: int = 0) -> int:
    """Write stories, train a tokenizer, encode, train a small model, and print stories that it writes.

    Args:
        data: folder for text, tokenizer and token shards. The run goes to runs/demo and replaces an earlier demo.
        minutes: about how long to train. The number of steps follows from the speed of this machine; if the machine
            becomes slower, training takes fewer steps, and the demo ends within 1.5 times as many minutes.
        steps: number of training steps, however long they take, instead.
        seed: seed of the stories and the model.
    """
    from groundup.display.console import make_console
    from groundup.studies.demo import run_demo

    return run_demo(make_console(), data, minutes=minutes, steps=steps, seed=seed)
