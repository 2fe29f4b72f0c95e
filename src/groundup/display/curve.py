"""The loss curve of a run, drawn in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from groundup.errors import MissingExtraError


def loss_curve(lines: Sequence[Mapping[str, Any]], width: int = 80, height: int = 16, *, color: bool = True) -> str:
    """Training and validation loss against steps, as text.

    Args:
        lines: of ``metrics.jsonl``.

    Raises:
        MissingExtraError: the package plotext is not installed.
    """
    try:
        import plotext
    except ImportError:
        raise MissingExtraError.for_package("plotext", "plot", "a plot in the terminal") from None
    figure = plotext.figure
    figure.clear()
    figure.theme("default" if color else "colorless")
    figure.plot_size(width, height)
    for key, label, marker in (("train_loss", "train", "braille"), ("val_loss", "valid", "●")):
        points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
        if not points:
            continue
        steps, losses = zip(*points, strict=True)
        signal = figure.signal(list(steps), list(losses), marker=marker).label(label)
        figure.draw(signal.lines() if marker == "braille" else signal)
    last = max((line["step"] for line in lines), default=0)
    ticks = sorted({round(last * i / 5) for i in range(6)})
    figure.ruler("x").ticks(ticks, [f"{tick:,}" for tick in ticks])
    figure.title("loss, nats per token")
    figure.label("step")
    figure.legend(True, x=figure.size()[0] - 8, y=0, ha="right")
    drawn: str = figure.build().string(not color)
    return drawn
