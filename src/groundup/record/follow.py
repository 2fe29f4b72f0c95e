"""Curves of a run that may still be growing: each update reads only the lines that were appended. Needs no torch."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.record.curve import Curve, with_whole_end
from groundup.record.metrics import read_metrics, read_samples
from groundup.record.read import column, last_of_each
from groundup.system.files import open_regular

_HEADING = ("step", "tokens", "wall_seconds")
# A file is the same one as before if what was read last still stands there.
_EDGE_BYTES = 256


class Followed:
    """A file that grows by lines.

    Attributes:
        end: byte behind the last complete line that was read.
    """

    def __init__(self, path: Path):
        self.path, self.end = path, 0
        self._stamp: tuple[int, ...] = ()
        self._edge = b""

    def changed(self) -> tuple[bool, bool]:
        """Whether there is something to read, and whether the file is another one, to be read from its beginning.

        A session that resumes cuts off the lines behind its checkpoint, by writing the file anew.

        Raises:
            OSError: the file cannot be read.
        """
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            gone = self.end > 0
            self.end, self._stamp, self._edge = 0, (), b""
            return gone, gone
        stamp = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        if stamp == self._stamp:
            return False, False
        # Of the same length, but written since: something was changed in place.
        another = stamp[:2] != self._stamp[:2] or stamp[2] == self._stamp[2] or self._before(self.end) != self._edge
        self._stamp = stamp
        if another:
            self.end, self._edge = 0, b""
        return True, another

    def read_to(self, end: int) -> None:
        """Note that the lines up to this byte have been read."""
        self.end, self._edge = end, self._before(end)

    def _before(self, end: int) -> bytes:
        begin = max(0, end - _EDGE_BYTES)
        with open_regular(self.path) as file:
            file.seek(begin)
            return file.read(end - begin)


class GrowingCurves:
    """All numbers of ``metrics.jsonl`` as curves, steps ascending; of a step's lines the last counts.

    Attributes:
        version: changes when points that were there change; otherwise points were only added.
        lines: intact lines so far.
    """

    def __init__(self, run: Path):
        self._file = Followed(run / "metrics.jsonl")
        self._forget()

    def _forget(self) -> None:
        self._curves: dict[str, Curve] = {}
        self._places: dict[str, NDArray[np.int64]] = {}
        self._base, self.lines = secrets.token_hex(4), 0
        self.tokens_per_step: float | None = None

    def update(self) -> None:
        """Read what was appended.

        Raises:
            OSError: the file cannot be read.
        """
        changed, another = self._file.changed()
        if another:
            self._forget()
        if not changed:
            return
        record = read_metrics(self._file.path, start=self._file.end)
        if record.lines:
            self._append(record.lines)
        if record.end > self._file.end:
            self._file.read_to(record.end)

    def _append(self, lines: list[dict[str, Any]]) -> None:
        steps, seconds = column(lines, "step"), np.nan_to_num(column(lines, "wall_seconds"))
        places = self.lines + np.arange(len(lines))
        kinds = dict.fromkeys(map(tuple, lines))  # a few, where lines are many
        for name in dict.fromkeys(name for kind in kinds for name in kind if name not in _HEADING):
            values = column(lines, name)
            there = np.isfinite(values)
            if not np.any(there):
                continue
            curve, place = Curve(steps[there], values[there], seconds[there]), places[there]
            if name in self._curves:
                curve = Curve(*map(np.concatenate, zip(self._curves[name], curve, strict=True)))
                place = np.concatenate([self._places[name], place])
            if np.any(np.diff(curve.steps) <= 0):
                last = last_of_each(curve.steps)
                curve, place = Curve(*(values[last] for values in curve)), place[last]
                self._base = secrets.token_hex(4)
            self._curves[name], self._places[name] = curve, place
        self.lines += len(lines)
        if lines[-1].get("tokens") and lines[-1]["step"]:
            self.tokens_per_step = lines[-1]["tokens"] / lines[-1]["step"]

    @property
    def names(self) -> list[str]:
        """The keys that have a number in any line."""
        return list(self._curves)

    @property
    def version(self) -> str:
        # The last point of the training loss may become part of the one before it.
        loss = self._curves.get("train_loss")
        return self._base + ("e" if loss is not None and len(with_whole_end(loss).steps) < len(loss.steps) else "")

    def curve(self, name: str, since: int = 0) -> Curve | None:
        """The points of a curve behind the first ``since`` lines; None if there are none at all."""
        curve = self._curves.get(name)
        if curve is None:
            return None
        if since:
            first = int(np.searchsorted(self._places[name], since))
            return Curve(*(values[first:] for values in curve))
        return with_whole_end(curve) if name == "train_loss" else curve


class GrowingSamples:
    """The intact lines of ``samples.jsonl`` so far."""

    def __init__(self, run: Path):
        self._file = Followed(run / "samples.jsonl")
        self.lines: list[dict[str, Any]] = []

    def update(self) -> None:
        """Read what was appended.

        Raises:
            OSError: the file cannot be read.
        """
        changed, another = self._file.changed()
        if another:
            self.lines = []
        if changed:
            record = read_samples(self._file.path, start=self._file.end)
            self.lines += record.lines
            if record.end > self._file.end:
                self._file.read_to(record.end)
