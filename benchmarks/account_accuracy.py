"""Accuracy of `groundup account`: memory by three measures and the time of a step, predicted and measured.

    python benchmarks/account_accuracy.py [--what kept peak process time] [--threads 1 2] [--rounds 3] [--out FILE]
        [--quick]

    kept      bytes that autograd saves in a forward pass, by its saved-tensors hook
    peak      peak bytes of tensors in a step, from the profiler's record of every allocation
    process   growth of a process's resident memory over three steps: with an allocator without waste, and with glibc's
              malloc as `groundup train` sets it, which keeps freed memory
    time      median seconds of a step with AdamW in float32, predicted from a square matmul timed between the steps

Each measurement of `process` and `time` runs in a separate process. --quick uses toy shapes, to try the script.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from account_measure import run_of, saved_by_autograd, tensor_peak
from groundup.account.activations import saved_activations
from groundup.account.memory import StepMemory, step_memory
from groundup.config import RunConfig
from groundup.version import VERSION
from side_by_side import Report, Row, failed, in_fresh_process, short

BASE = {"vocab_size": 10_000, "context_length": 256, "d_model": 256, "num_layers": 4, "num_heads": 4}
QUICK = {"vocab_size": 500, "context_length": 32, "d_model": 32, "num_layers": 2, "num_heads": 2}
PLAIN = {"kernels": "plain", "attention": "plain"}
RUNS: dict[str, dict[str, Any]] = {
    "8 M, batch 8": {},
    "8 M, batch 32": {"batch": 32},
    "23 M, batch 8": {"model": {"d_model": 512, "num_heads": 8}},
    "8 M, plain": {"train": PLAIN},
    "8 M, plain kernels in bf16": {"train": {"kernels": "plain", "precision": "bf16"}},
    "8 M, bf16, batch 16": {"train": {"precision": "bf16"}, "batch": 16},
    "8 M, checkpointing, batch 32": {"train": {"activation_checkpointing": True}, "batch": 32},
    "vocabulary 32k, batch 4": {"model": {"vocab_size": 32_000}, "batch": 4},
    "23 M, Muon, batch 1": {"model": {"d_model": 512, "num_heads": 8}, "optim": {"optimizer": "muon"}, "batch": 1},
    "post-norm, SiLU, shared heads": {"model": {"norm": "post", "ffn": "silu", "num_kv_heads": 2}, "batch": 16},
    "context 1,024, plain attention": {
        "model": {"context_length": 1024, "vocab_size": 500}, "train": {"attention": "plain"}, "batch": 2,
    },
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "8 M": {},
    "23 M": {"model": {"d_model": 512, "num_heads": 8}},
    "12 layers, context 512": {
        "model": {"num_layers": 12, "context_length": 512, "vocab_size": 4000, "num_heads": 8}, "batch": 2,
    },
    "width 384, context 128": {"model": {"d_model": 384, "num_heads": 6, "context_length": 128}, "batch": 24},
    "vocabulary 32k": {"model": {"num_layers": 2, "vocab_size": 32_000}, "batch": 4},
}  # fmt: skip
EXACT = {"MALLOC_MMAP_THRESHOLD_": str(2**17)}


def run_config(run: dict[str, Any], base: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Options of a run as nested values."""
    return {
        "model": base | (run.get("model", {}) if base is BASE else {}),
        "data": {"batch_size": run.get("batch", 8)},
        "train": run.get("train", {}),
        "optim": run.get("optim", {}),
    }


def predicted(config: RunConfig) -> StepMemory:
    """Predicted memory of a step."""
    return step_memory(config.model, config.optim, config.train, batch_size=config.data.batch_size)


def about(what: str, name: str) -> Row:
    """First columns of a row."""
    return {"what": what, "ours": f"groundup {VERSION}", "run": name}


def compared(said: float, found: float, unit: str, scale: float) -> Row:
    """Prediction, measurement, and their ratio."""
    return {
        f"predicted_{unit}": short(said / scale),
        f"found_{unit}": short(found / scale),
        "ratio": short(said / found),
    }


def memory(report: Report, what: list[str], base: dict[str, Any]) -> None:
    """Rows on memory."""
    for name, run in RUNS.items():
        values = run_config(run, base)
        config = run_of(values)
        said = predicted(config)
        if "kept" in what:
            kept = saved_activations(config.model, config.train, batch_size=config.data.batch_size)
            saved = sum(tensor.size for tensor in kept if tensor.by_autograd)
            report.add(about("kept", name) | compared(saved, saved_by_autograd(config), "mb", 1e6))
        if "peak" in what:
            report.add(
                about("peak", name) | {"when": said.moment} | compared(said.peak, tensor_peak(config), "mb", 1e6)
            )
        if "process" in what:
            for allocator, prepared, variables in (("wastes nothing", False, EXACT), ("as train sets it", True, {})):
                found = in_fresh_process(
                    "account_measure:process_growth", {"run": values, "prepared": prepared},
                    threads=1, time_limit=600, variables=variables,
                )  # fmt: skip
                row = about("process", name) | {"allocator": allocator}
                if failed(found):
                    report.add_failure(row, found)
                else:
                    report.add(row | compared(said.peak, found["bytes"], "mb", 1e6))


def step_times(report: Report, threads: list[int], rounds: int, base: dict[str, Any], seconds: float) -> None:
    """Rows on time; the ratio is the median over rounds."""
    for count in threads:
        for name, run in SHAPES.items():
            arguments = {"run": run_config(run, base), "seconds": seconds}
            found = [
                in_fresh_process("account_measure:step_time", arguments, threads=1, math_threads=count, time_limit=600)
                for _ in range(rounds)
            ]
            row = about("time", name) | {"threads": count, "rounds": rounds}
            wrong = next((one for one in found if failed(one)), None)
            if wrong is not None:
                report.add_failure(row, wrong)
                continue
            ratios = [one["predicted_seconds"] / one["seconds"] for one in found]
            report.add(
                row
                | {
                    "predicted_ms": short(1e3 * statistics.median(one["predicted_seconds"] for one in found)),
                    "found_ms": short(1e3 * statistics.median(one["seconds"] for one in found)),
                    "matmul_gflops": short(statistics.median(one["matmul_flops_per_s"] for one in found) / 1e9),
                    "ratio": short(statistics.median(ratios)), "ratio_min": short(min(ratios)),
                    "ratio_max": short(max(ratios)),
                }
            )  # fmt: skip


def main() -> None:
    """Measure and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ["kept", "peak", "process", "time"]
    parser.add_argument("--what", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    report = Report(options.out)
    base, seconds = (QUICK, 0.1) if options.quick else (BASE, 6.0)
    memory(report, options.what, base)
    if "time" in options.what:
        step_times(report, options.threads, 1 if options.quick else options.rounds, base, seconds)
    report.finish(
        ["run", "threads", "when", "allocator", "predicted_mb", "found_mb", "predicted_ms", "found_ms", "matmul_gflops",
         "ratio", "ratio_min", "ratio_max", "timed_out_s", "error"]
    )  # fmt: skip


if __name__ == "__main__":
    main()
