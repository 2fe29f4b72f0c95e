"""Time of the lab's answers with a dozen runs of 100,000 lines of metrics: the first, and a poll while all grow.

python benchmarks/lab.py [--runs 12] [--lines 100000]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from groundup.config import RunConfig, override, save_toml
from groundup.serve.lab import Lab

MEASURES = ["val_loss", "train_loss", "lr", "grad_norm", "tokens_per_second"]


def line(step: int, loss: float) -> str:
    """A line of metrics as training writes it."""
    values = {"step": step, "tokens": 8192 * step, "wall_seconds": step / 10, "train_loss": loss, "lr": 1e-3}
    values |= {"grad_norm": 1.5 * loss, "tokens_per_second": 81234.5, "mfu": None, "peak_memory": 123456789}
    if step % 100 == 0:
        values |= {"val_loss": loss, "val_perplexity": 2.0, "val_bpb": loss / 3}
    return json.dumps(values) + "\n"


def make_runs(folder: Path, runs: int, lines: int) -> list[Path]:
    """Runs with this number of lines each; returns their metrics files."""
    files = []
    for number in range(runs):
        run = folder / f"run-{number}"
        run.mkdir(parents=True)
        save_toml(override(RunConfig(), {"name": run.name}), run / "config.toml")
        (run / "environment.json").write_text('{"flops_per_token": 1e9, "parameters": 1000000}')
        losses = 2 + np.random.default_rng(number).normal(0, 0.1, lines)
        (run / "metrics.jsonl").write_text("".join(line(step + 1, loss) for step, loss in enumerate(losses.tolist())))
        files.append(run / "metrics.jsonl")
    return files


def main() -> None:
    """Make the runs, ask as the page does, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--polls", type=int, default=11)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        files = make_runs(Path(name), given.runs, given.lines)
        lab = Lab(Path(name))
        began = time.perf_counter()
        runs = [run["id"] for run in lab.runs()["runs"]]
        listed = time.perf_counter() - began
        found: dict[str, Any] = {}
        while left := [(run, "") for run in runs if run not in found]:
            found |= lab.curves(left, MEASURES)
        size = len(json.dumps(found, separators=(",", ":")))
        print(f"the list: {listed:.2f} s; all curves: {time.perf_counter() - began:.2f} s, {size / 1e6:.1f} MB")
        times, sizes = [], []
        for poll in range(given.polls):
            for file in files:
                with file.open("a") as out:
                    out.write(line(given.lines + poll + 1, 2.0))
            time.sleep(1.1)  # so that the list is read again, as it is every two seconds
            began = time.perf_counter()
            lab.runs()
            found |= (new := lab.curves([(run, found[run]["at"]) for run in runs], MEASURES))
            sizes.append(len(json.dumps(new, separators=(",", ":"))))
            times.append(time.perf_counter() - began)
        middle, worst, size = 1e3 * statistics.median(times), 1e3 * max(times), statistics.median(sizes) / 1e3
        print(f"a poll of all: {middle:.0f} ms (median of {given.polls}, at worst {worst:.0f}), {size:.1f} kB")


if __name__ == "__main__":
    main()
