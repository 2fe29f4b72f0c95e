"""The record that is always written: one JSON object a line."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groundup.files import write_atomically
from groundup.track.sink import Metrics


class JsonlSink:
    """``metrics.jsonl`` and ``samples.jsonl`` in a run directory, each line on disk before the next begins.

    Args:
        after_step: when resuming, lines of later steps are dropped first, so that a file never has a step twice.
    """

    def __init__(self, run_dir: Path, after_step: int | None = None):
        self.paths = {"metrics": run_dir / "metrics.jsonl", "samples": run_dir / "samples.jsonl"}
        for path in self.paths.values():
            if after_step is not None and path.exists():
                kept = [line for line in read_jsonl(path) if line["step"] <= after_step]
                write_atomically(path, "".join(map(_line, kept)))
        self._files = {name: path.open("a", encoding="utf-8") for name, path in self.paths.items()}

    def metrics(self, line: Metrics) -> None:
        self._write("metrics", line)

    def sample(self, line: Metrics) -> None:
        self._write("samples", line)

    def close(self) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def _write(self, name: str, line: Metrics) -> None:
        self._files[name].write(_line(line))
        self._files[name].flush()


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file. A last line cut off by a crash is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for line in lines:
        if line.endswith("\n"):
            yield json.loads(line)


def _line(values: Metrics) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"
