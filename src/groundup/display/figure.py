"""A matplotlib figure as a file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.errors import ConfigError, MissingExtraError
from groundup.system.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = (".png", ".svg", ".pdf")


def new_figure(width: float, height: float, purpose: str) -> Figure:
    """An empty figure, ``width`` by ``height`` inches.

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


def drawable(text: str) -> str:
    """A text as matplotlib can draw it: a lone surrogate, which stands in a name for a byte that is not UTF-8, becomes
    a question mark, and a control character is written out. For labels of ticks; all other texts are changed anyway."""
    shown = text.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in shown)


def write_picture(figure: Figure, path: Path) -> None:
    """Write a figure, as what its name says it is."""
    write_atomically(path, picture_bytes(figure, picture_kind(path), dpi=150))


def picture_bytes(figure: Figure, kind: str, **options: Any) -> bytes:
    """A figure as a file of a kind; options as for ``Figure.savefig``."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(drawable(text.get_text()))
    file = io.BytesIO()
    figure.savefig(file, format=kind, **options)
    return file.getvalue()
