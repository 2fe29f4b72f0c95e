"""Strict JSON parsing for run records: every kind of damage is a ValueError."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from groundup.system.files import read_bytes


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _loads(content: bytes | str) -> Any:
    return json.loads(content, parse_constant=_not_json)


loads: Callable[[bytes], Any] = _loads
"""The fastest parser installed; raises ValueError or RecursionError."""
with contextlib.suppress(ImportError):  # five times as fast; a report may read hundreds of runs
    import orjson

    loads = orjson.loads


def parse_json(content: bytes) -> Any:
    """A JSON value.

    Raises:
        ValueError: it is not JSON, not UTF-8, nested too deeply, or holds NaN, Infinity or a number of too many digits.
    """
    try:
        return _loads(content.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a JSON object.
    """
    content = parse_json(read_bytes(path))
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, found {type(content).__name__}")
    return content
