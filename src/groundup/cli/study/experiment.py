"""`groundup experiment …`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from groundup.cli.parse import call
from groundup.errors import ConfigError


def toy_sgd(arguments: list[str]) -> None:
    """Parse and run."""
    call(_toy_sgd, arguments, "experiment toy-sgd")


def _toy_sgd(
    *,
    learning_rates: tuple[float, ...] = (1.0, 10.0, 100.0, 1000.0),
    steps: int = 10,
    seed: int = 42,
    plot: Path | None = None,
    json_output: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Run SGD on the mean of 100 squares at several learning rates: slow, good, perfect, and diverging.

    Args:
        learning_rates: learning rates of the first step; step t uses the learning rate / sqrt(t + 1).
        steps: number of steps at each learning rate.
        seed: seed of the initial weights, which are the same for every learning rate.
        plot: draw the curves into this file (.png, .svg or .pdf).
        json_output: print JSON instead of a table.
    """
    from groundup.display.console import make_console, print_section
    from groundup.display.figure import picture_kind, write_picture
    from groundup.studies.toy_sgd import toy_sgd, toy_sgd_document, toy_sgd_figure, toy_sgd_section

    if plot is not None:
        picture_kind(plot)
    if len(set(learning_rates)) < len(learning_rates):
        raise ConfigError(f"--learning-rates {' '.join(f'{rate:g}' for rate in learning_rates)}; each only once")
    found = toy_sgd(learning_rates, steps, seed)
    if plot is not None:
        write_picture(toy_sgd_figure(found), plot)
    if json_output:
        print(json.dumps(toy_sgd_document(found, seed), indent=1))
        return
    console = make_console()
    print_section(console, *toy_sgd_section(found))
    if plot is not None:
        console.print(f"drawn into {plot}", markup=False)
