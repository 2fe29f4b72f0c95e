"""A matplotlib figure as a file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.errors import ConfigError, MissingExtraError
from groundup.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = (".png", ".svg", ".pdf")


def new_figure(width: float, height: float, purpose: str) -> Figure:
    """An empty figure of so many inches.

    Raises:
        MissingExtraError: matplotlib is not installed; the message names the purpose.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError.for_package("matplotlib", "plot", purpose) from None
    return Figure(figsize=(width, height), layout="constrained")


def picture_kind(path: Path) -> str:
    """What a picture of this name is.

    Raises:
        ConfigError: none of the kinds that can be written.
    """
    if path.suffix not in _KINDS:
        raise ConfigError(f"--plot {path}; expected a file that ends in .png, .svg or .pdf")
    return path.suffix[1:]


def write_picture(figure: Figure, path: Path) -> None:
    """Write a figure, as what its name says it is."""
    file = io.BytesIO()
    figure.savefig(file, format=picture_kind(path), dpi=150)
    write_atomically(path, file.getvalue())
