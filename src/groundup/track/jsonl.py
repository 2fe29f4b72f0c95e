"""The record that is always written: one JSON object a line."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from groundup.errors import TrainingError
from groundup.files import write_atomically
from groundup.track.sink import Metrics

loads: Callable[[bytes], Any] = json.loads
with contextlib.suppress(ImportError):  # five times as fast, which a report on hundreds of runs is glad of
    import orjson

    loads = orjson.loads


class JsonlSink:
    """``metrics.jsonl`` and ``samples.jsonl`` in a run directory, each line handed to the system at once.

    Args:
        after_step: lines of later steps are dropped first, so that a file never has a step twice; -1 drops all.
    """

    def __init__(self, run_dir: Path, after_step: int = -1):
        self.paths = {"metrics": run_dir / "metrics.jsonl", "samples": run_dir / "samples.jsonl"}
        for path in self.paths.values():
            if path.exists():
                kept = [line for line in read_jsonl(path) if line["step"] <= after_step]
                write_atomically(path, "".join(map(_line, kept)))
        self._files = {name: path.open("ab", buffering=0) for name, path in self.paths.items()}

    def metrics(self, line: Metrics) -> None:
        """Raises TrainingError where the disk takes no more."""
        self._write("metrics", line)

    def sample(self, line: Metrics) -> None:
        """Raises TrainingError where the disk takes no more."""
        self._write("samples", line)

    def sync(self) -> None:
        """Put all lines on the disk, so that no checkpoint is there without the lines that led to it."""
        for file in self._files.values():
            os.fsync(file.fileno())

    def close(self) -> None:
        self.sync()
        for file in self._files.values():
            file.close()

    def _write(self, name: str, line: Metrics) -> None:
        rest = memoryview(_line(line).encode("utf-8"))
        try:
            while rest:  # a disk that fills up takes a part, and refuses the rest
                rest = rest[self._files[name].write(rest) :]
        except OSError as error:
            raise TrainingError(
                f"cannot write {self.paths[name]}: {error.strerror or error}; free some space and resume the run"
            ) from None


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file. A last line cut off by a crash is left out."""
    # On bytes: a text may hold other line separators than "\n", and the cut may lie inside a character.
    for line in path.read_bytes().split(b"\n")[:-1]:
        yield loads(line)


def _line(values: Metrics) -> str:
    # JSON has no infinity and no NaN.
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return json.dumps(finite, ensure_ascii=False) + "\n"
