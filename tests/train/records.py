"""Shared by tests of interrupted runs: all that two runs have in common if they are the same, and a timed signal."""

import json
import os
import signal
from pathlib import Path

from groundup.record.run import RunDirectory
from groundup.record.sinks import Silent, read_jsonl

CLOCKS = {"wall_seconds", "tokens_per_second", "mfu", "peak_memory"}


def record(run: Path) -> list:
    """All that must be equal: metrics without clocks, samples, the best step, final weights, final optimizer."""
    lines = [{k: v for k, v in line.items() if k not in CLOCKS} for line in read_jsonl(run / "metrics.jsonl")]
    last = RunDirectory(run).checkpoint("latest")
    files = [(last / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")]
    return [lines, list(read_jsonl(run / "samples.jsonl")), (run / "checkpoints" / "best").read_text(), *files]


def without_hashes(checkpoint: Path) -> None:
    """Make a checkpoint one of version 0.1, which knew no hashes."""
    path = checkpoint / "state.json"
    state = json.loads(path.read_text())
    del state["files"], state["content_sha256"]
    path.write_text(json.dumps(state))


class SignalAt(Silent):
    """Sends this process a signal once a step is done."""

    def __init__(self, step: int, number: signal.Signals):
        self.at, self.number = step, number

    def step(self, step: int, loss: float) -> None:
        if step == self.at:
            os.kill(os.getpid(), self.number)
