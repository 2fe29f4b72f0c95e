"""A table for a person to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Section(NamedTuple):
    """A titled table; all cells are text."""

    title: str
    header: tuple[str, ...]
    """Names of the columns; empty for names and values."""
    rows: Sequence[tuple[str, ...]]
    note: str = ""
