"""The smallest experiment with a learning rate: SGD on the mean of squares of 100 numbers (course requirement R39)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from groundup.display.figure import new_figure
from groundup.display.section import Section
from groundup.errors import ConfigError
from groundup.optim import SGD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ELEMENTS = 100
LARGEST_RATE = 1e38
"""The largest power of ten that float32 holds."""
MOST_STEPS = 1_000_000
"""Takes about a minute for each learning rate."""
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7")
_MARKERS = "os^Dv"


def toy_sgd(learning_rates: Sequence[float], steps: int = 10, seed: int = 42) -> dict[float, list[float]]:
    """Losses before each step, for each learning rate, all from the same 10 x 10 weights ``5 · N(0, 1)``.

    The loss is the mean of the squared weights and the learning rate of step t (from 0) is
    ``rate / sqrt(t + 1)``, so that

        loss[t + 1] = loss[t] · (1 - 0.02 · rate / sqrt(t + 1))²

    Raises:
        ConfigError: no rates, one that is negative or that float32 cannot hold, no steps or too many, or a seed that
            torch refuses.
    """
    if not learning_rates:
        raise ConfigError("no learning rates; expected at least one, such as 1")
    if not 1 <= steps <= MOST_STEPS:
        raise ConfigError(f"steps = {steps}; expected 1 to {MOST_STEPS:,}")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed = {seed}; expected a number from 0 to 2^63 - 1")
    too_large = [rate for rate in learning_rates if LARGEST_RATE < rate < math.inf]
    if too_large:
        raise ConfigError(f"learning rate = {too_large[0]:g}; expected at most {LARGEST_RATE:g}")
    found = {}
    for rate in learning_rates:
        generator = torch.Generator().manual_seed(seed)
        weights = torch.nn.Parameter(5 * torch.randn(10, 10, generator=generator))
        optimizer = SGD([weights], lr=rate)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (weights**2).mean()
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
        found[rate] = losses
    return found


def behaviour(rate: float, losses: Sequence[float]) -> str:
    """Effect of a learning rate, in words."""
    first, last = losses[0], losses[-1]
    if not math.isfinite(last) or last > 10 * first:
        return f"diverges: the loss grows {last / first:.1e}-fold" if math.isfinite(last) else "diverges to infinity"
    exact = next((t for t in range(len(losses)) if 0.02 * rate == math.sqrt(t + 1)), None)
    if last < 1e-6 * first:
        hit = f", since step {exact + 1} goes exactly to the minimum" if exact is not None else ""
        return f"solves the problem{hit}"
    return f"falls to {last / first:.0%} of where it began" if last < first else "does not fall"


def toy_sgd_section(found: dict[float, list[float]]) -> Section:
    """The losses as a table, a column for each learning rate."""
    rows = [
        (str(t), *(_number(losses[t]) for losses in found.values())) for t in range(len(next(iter(found.values()))))
    ]
    note = " ".join(f"Rate {rate:g} {behaviour(rate, losses)}." for rate, losses in found.items())
    title = f"loss of SGD on the mean of {ELEMENTS} squares"
    return Section(title, ("step", *(f"rate {rate:g}" for rate in found)), rows, note)


def toy_sgd_document(found: dict[float, list[float]], seed: int) -> dict[str, Any]:
    """The same as plain values; a non-finite loss is None, since JSON has no other value for it."""
    runs = [
        {
            "learning_rate": rate,
            "losses": [loss if math.isfinite(loss) else None for loss in losses],
            "finding": behaviour(rate, losses),
        }
        for rate, losses in found.items()
    ]
    return {"experiment": "toy-sgd", "seed": seed, "runs": runs}


def toy_sgd_figure(found: dict[float, list[float]]) -> Figure:
    """Loss against step for each learning rate, on a logarithmic axis.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(7, 4.2, "the picture of an experiment")
    axes = figure.subplots()
    for i, (rate, losses) in enumerate(found.items()):
        axes.plot(
            range(len(losses)),
            losses,
            f"{_MARKERS[i % 5]}-",
            color=_COLOURS[i % 5],
            markersize=4,
            label=f"rate {rate:g}",
        )
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel(f"mean of {ELEMENTS} squares")
    axes.set_title("SGD with rate / sqrt(step + 1)", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _number(value: float) -> str:
    return f"{value:,.4f}" if 1e-3 <= value < 1e6 else f"{value:.3e}"
