"""`groundup fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from groundup.cli.parse import call
from groundup.errors import ConfigError


def fit(arguments: list[str]) -> None:
    """Parse and run."""
    call(_fit, arguments, "fit")


def _fit(
    runs: tuple[Path, ...] = (),
    /,
    *,
    flops: str | None = None,
    minutes: float | None = None,
    tokens: str | None = None,
    parameters: str | None = None,
    curves: bool = False,
    plot: Path | None = None,
    json_output: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Fit a scaling law to runs: loss against parameters and tokens, and what it says about a budget.

    groundup fit runs --flops 1e16

    The law is that of Hoffmann et al. (2022): loss = E + A / N^alpha + B / D^beta. N counts all parameters,
    embeddings included. It needs runs of 3 or more sizes and lengths, 7 in all, on the same data; of runs of one size,
    tokens alone are fitted. Every number has a 95 % interval.

    Args:
        runs: run directories, sweep directories, or folders of them.
        flops: a budget of training FLOPs, such as 1e16: how large a model, how many tokens, what loss?
        minutes: a budget of training time on the device of the runs, at their tokens/s.
        tokens: a number of tokens, such as 300M; without a budget, for the size that needs them.
        parameters: a size, such as 10M; without a budget or tokens, for as many tokens as suit it.
        curves: also fit the evaluations during runs with a constant learning rate.
        plot: draw the runs and the law into this file (.png, .svg or .pdf).
        json_output: print JSON instead of tables.
    """
    from groundup.display.console import make_console
    from groundup.display.figure import picture_kind
    from groundup.display.units import parse_count

    if not runs:
        raise ConfigError("nothing to fit; give runs or a folder of them, such as runs")
    if minutes is not None and not 0 < minutes < float("inf"):
        raise ConfigError(f"--minutes {minutes:g}; expected a positive number")
    if plot is not None:
        picture_kind(plot)
    from groundup.reports.scaling.terminal import print_fit

    counts = {"flops": flops, "tokens": tokens, "parameters": parameters}
    asked = {name: None if text is None else float(parse_count(text)) for name, text in counts.items()}
    print_fit(
        make_console(stderr=json_output), runs, **asked, minutes=minutes, curves=curves, plot=plot,
        json_output=json_output,
    )  # fmt: skip
