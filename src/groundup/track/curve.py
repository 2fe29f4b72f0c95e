"""The loss curve of a run, drawn in the terminal."""

from __future__ import annotations

from pathlib import Path

from groundup.errors import MissingExtraError
from groundup.track.jsonl import read_jsonl


def loss_curve(run_dir: Path, width: int = 80, height: int = 16, *, color: bool = True) -> str:
    """Training and validation loss against steps, as text.

    Raises:
        MissingExtraError: the package plotext is not installed.
    """
    try:
        import plotext
    except ImportError:
        raise MissingExtraError.for_package("plotext", "plot", "a plot in the terminal") from None
    lines = list(read_jsonl(run_dir / "metrics.jsonl"))
    plotext.clear_figure()
    plotext.theme("clear" if not color else "pro")
    plotext.plotsize(width, height)
    for key, label, shade in (("train_loss", "train", "blue"), ("val_loss", "valid", "orange")):
        points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
        if points:
            steps, losses = zip(*points, strict=True)
            plotext.plot(steps, losses, label=label, marker="braille", color=shade if color else None)
    plotext.xlabel("step")
    plotext.title("loss, nats per token")
    drawn: str = plotext.build()
    return drawn
