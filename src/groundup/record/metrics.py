"""The one reader of JSONL files: ``metrics.jsonl``, ``samples.jsonl`` and ``results.jsonl``.

A line of metrics or samples is a JSON object with its ``step``. Crashes, full disks and manual edits leave other lines:
torn ones, NULs, other types. Every caller gets the intact lines, and the numbers of the damaged ones with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundup.record.json import loads, parse_json
from groundup.system.files import open_regular

Check = Callable[[dict[str, Any]], str]
"""Return what is wrong with an object as a line of its file; empty if it is valid."""


@dataclass
class Record:
    """The intact lines of a file.

    Attributes:
        lines: in file order.
        places: line number of each, from 1; counted back from the end if only the end of the file was read.
        damaged: line number to reason, for each line that is left out.
        last_is_damaged: whether no intact line follows the last damaged one, so the end may be lost.
        end: byte behind the last complete line, where the next reading may start.
    """

    path: Path
    lines: list[dict[str, Any]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    damaged: dict[int, str] = field(default_factory=dict)
    last_is_damaged: bool = False
    end: int = 0

    @property
    def note(self) -> str:
        """Description of the damage; empty if there is none."""
        if not self.damaged:
            return ""
        number, reason = next(iter(self.damaged.items()))
        # Counted from the end, where only the end was read.
        first = f"line {number}" if number > 0 else "one of its last lines"
        more = f", and {len(self.damaged) - 1} more lines" if len(self.damaged) > 1 else ""
        return f"{self.path.name} is damaged: {first} {reason}{more}; left out"


def read_metrics(path: Path, *, last_bytes: int = 0, start: int = 0) -> Record:
    """The lines of ``metrics.jsonl``; empty if the file does not exist. An incomplete last line is still being written,
    or was when its process was killed, and does not count as damaged.

    Args:
        last_bytes: read only about this much of the end; 0 reads all.
        start: byte to begin at, the ``end`` of an earlier record; line numbers count from there.

    Raises:
        OSError: the file cannot be read.
    """
    return _read(path, _what_is_wrong_in_metrics, last_bytes, start=start)


def read_samples(path: Path, *, start: int = 0) -> Record:
    """The lines of a ``samples.jsonl``, as :func:`read_metrics`."""
    return _read(path, _what_is_wrong_in_a_sample, 0, start=start)


def read_objects(path: Path) -> Record:
    """The objects of any JSONL file, as :func:`read_metrics`."""
    return _read(path, lambda line: "", 0)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of any JSONL file, where damage is an error. A last line without its end is left out.

    Raises:
        ValueError: a line is damaged; names the file and the line.
    """
    record = _read(path, lambda line: "", 0, must_exist=True)
    for number, reason in record.damaged.items():
        raise ValueError(f"{path} line {number} {reason}")
    yield from record.lines


def json_values(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line with infinity and NaN, which JSON lacks, replaced by None."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}


def finite(value: Any) -> float | None:
    """Return the value if it is a finite number, otherwise None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer beyond all floats
        return None


def _read(path: Path, check: Check, last_bytes: int, *, start: int = 0, must_exist: bool = False) -> Record:
    record = Record(path)
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            partial = bool(last_bytes) and size > last_bytes
            begin = file.seek(size - last_bytes if partial else start)
            content = file.read()
            lines = content.split(b"\n")[:-1]
            record.end = begin + content.rfind(b"\n") + 1
    except FileNotFoundError:
        if must_exist:
            raise
        return record
    if partial:
        lines = lines[1:]  # the first is cut off
    for number, value in enumerate(_parsed(lines), start=1 - len(lines) if partial else 1):
        wrong = check(value) if isinstance(value, dict) else "is not a JSON object"
        if wrong:
            record.damaged[number] = wrong
        else:
            record.lines.append(value)
            record.places.append(number)
        record.last_is_damaged = bool(wrong)
    return record


def _parsed(lines: list[bytes]) -> list[Any]:
    """The value of each line; None for one that is not JSON."""
    with_commas = b"[%b]" % b",".join(lines)
    try:  # all at once, which is quicker
        values = loads(with_commas)
        if isinstance(values, list) and len(values) == len(lines) and all(type(value) is dict for value in values):
            return values
    except (ValueError, RecursionError):
        pass
    found: list[Any] = []
    for line in lines:
        try:
            found.append(parse_json(line))
        except ValueError:
            found.append(None)
    return found


def _what_is_wrong_in_metrics(line: dict[str, Any]) -> str:
    if not _is_step(line.get("step")):
        return "has no step"
    for name, value in line.items():
        kind = type(value)
        if kind is float:
            if not math.isfinite(value):
                return f"has no number for {name!r}"
        elif kind is int:
            if not -_LARGEST < value < _LARGEST:
                return f"has no number for {name!r}"
        elif value is not None and kind is not bool:
            return f"has no number for {name!r}"
    return ""


def _what_is_wrong_in_a_sample(line: dict[str, Any]) -> str:
    if not _is_step(line.get("step")):
        return "has no step"
    return "" if all(isinstance(line.get(name), str) for name in ("prompt", "text")) else "has no text"


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


_LARGEST = 2**63
