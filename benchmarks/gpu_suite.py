"""Training throughput on a GPU in one call: tokens/s, MFU, peak memory, and the optimizer's share of the step.

    python benchmarks/gpu_suite.py [--out FILE] [--seconds 20] [--quick]

Synthetic tokens, so that nothing but the package is needed. MFU counts 3 x the forward matrix products (2mnp,
attention in full) over the card's dense bfloat16 peak. --quick uses toy shapes, to try the script on a CPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from groundup.account import parameter_count, peak_flops, training_flops_per_token
from groundup.config import ModelConfig, OptimConfig
from groundup.nn import TransformerLM
from groundup.train.build import build_loss, build_optimizer
from groundup.train.environment import device_name
from groundup.train.step import train_step


@dataclass(frozen=True)
class Case:
    """One model at one batch size."""

    name: str
    model: ModelConfig
    batch_size: int


CASES = [
    Case("report 36M", ModelConfig(vocab_size=10_000, context_length=256, d_model=512, num_layers=8, num_heads=8), 128),
    Case(
        "GPT-2 small shape",
        ModelConfig(vocab_size=50_304, context_length=1024, d_model=768, num_layers=12, num_heads=12, d_ff=2048,
                    tie_embeddings=True),
        32,
    ),
]  # fmt: skip
QUICK = [Case("toy", ModelConfig(vocab_size=500, context_length=64, d_model=64, num_layers=2, num_heads=2), 4)]


def measure(case: Case, device: str, *, compile: bool, seconds: float) -> dict[str, object]:
    """Steps for about ``seconds`` after warm-up; medians."""
    torch.manual_seed(0)
    model = TransformerLM.from_config(case.model, flash=True).to(device)
    model.compute_dtype = torch.bfloat16
    loss = build_loss(model, compile=compile)
    optimizer = build_optimizer(model, OptimConfig())
    ids = torch.randint(case.model.vocab_size, (case.batch_size, case.model.context_length + 1), device=device)
    batch = [(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())]

    def timed(work: Callable[[], object]) -> float:
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        return time.perf_counter() - began

    def step() -> None:
        train_step(model, loss, optimizer, batch, 1, 1.0)

    began = time.perf_counter()
    step()
    first_step = time.perf_counter() - began
    for _ in range(3):
        step()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times, optimizer_times, end = [], [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        times.append(timed(step))
        optimizer_times.append(timed(optimizer.step))
    median = sorted(times)[len(times) // 2]
    tokens = case.batch_size * case.model.context_length / median
    peak = peak_flops(device_name(device), "bf16")
    return {
        "what": "train", "case": case.name, "parameters": parameter_count(case.model), "batch_size": case.batch_size,
        "context_length": case.model.context_length, "precision": "bf16", "compile": compile, "steps": len(times),
        "tokens_per_second": round(tokens), "step_ms": round(median * 1e3, 3), "first_step_s": round(first_step, 2),
        "mfu": round(tokens * training_flops_per_token(case.model) / peak, 4) if peak else None,
        "optimizer_share": round(sorted(optimizer_times)[len(times) // 2] / median, 4),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if device == "cuda" else None,
    }  # fmt: skip


def synchronize(device: str) -> None:
    """Wait for the device, so that a clock means something."""
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Run all cases and print one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.quick:
        parser.error("there is no GPU; --quick tries the script on the CPU")
    rows: list[dict[str, object]] = [
        {"what": "machine", "device": device_name(device), "torch": torch.__version__, "cuda": torch.version.cuda,
         "python": platform.python_version(), "date": time.strftime("%Y-%m-%d")}
    ]  # fmt: skip
    print(json.dumps(rows[0]), flush=True)
    for case in QUICK if options.quick else CASES:
        for compile in (False, True):
            rows.append(measure(case, device, compile=compile, seconds=options.seconds))
            print(json.dumps(rows[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
