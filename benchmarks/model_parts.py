"""Benchmark of parts of a training step against torch: cross-entropy, AdamW, the embedding's gradient, RoPE.

    python benchmarks/model_parts.py [--out FILE] [--threads 2] [--rounds 7]

Each pair runs side by side in every round on the same input. Times are medians in milliseconds, forward and backward.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from groundup.nn import Embedding, RotaryPositionalEmbedding, cross_entropy
from groundup.optim import AdamW

Work = Callable[[], object]


def cross_entropy_pair() -> tuple[str, Work, Work]:
    """Cross-entropy over 8,192 positions and 10,000 tokens."""
    logits, targets = torch.randn(8192, 10_000, requires_grad=True), torch.randint(10_000, (8192,))

    def run(function: Callable[..., torch.Tensor]) -> Work:
        def work() -> None:
            logits.grad = None
            function(logits, targets).backward()

        return work

    return "cross_entropy 8192 x 10000", run(cross_entropy), run(torch.nn.functional.cross_entropy)


def adamw_pair(*, fused: bool) -> tuple[str, Work, Work]:
    """AdamW step over the tensors of an 8 M parameter model."""
    shapes = [(10_000, 256)] * 2 + [(256, 256)] * 16 + [(704, 256)] * 12 + [(256,)] * 9

    def parameters() -> list[torch.nn.Parameter]:
        result = [torch.nn.Parameter(torch.randn(shape) * 0.02) for shape in shapes]
        for p in result:
            p.grad = torch.randn_like(p) * 1e-3
        return result

    ours, theirs = AdamW(parameters(), fused=fused), torch.optim.AdamW(parameters(), fused=fused)
    return f"AdamW step 8 M, {'fused' if fused else 'plain'}", ours.step, theirs.step


def embedding_pair() -> tuple[str, Work, Work]:
    """Gradient of a 10,000 x 256 embedding from 8,192 ids of uneven frequency."""
    table = Embedding(10_000, 256)
    ids = (torch.rand(32, 256) ** 6 * 10_000).long()
    upstream = torch.randn(32, 256, 256)

    def work(function: Callable[[], torch.Tensor]) -> Work:
        def run() -> None:
            table.weight.grad = None
            function().backward(upstream)

        return run

    return (
        "embedding 8192 of 10000 x 256",
        work(lambda: table(ids)),
        work(lambda: torch.nn.functional.embedding(ids, table.weight)),
    )


def rope_pair() -> tuple[str, Work, Work]:
    """RoPE of a 32 x 4 x 256 x 64 tensor, against the same in real arithmetic."""
    rope = RotaryPositionalEmbedding(10_000.0, 64, 256)
    x = torch.randn(32, 4, 256, 64, requires_grad=True)

    def real() -> torch.Tensor:
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * rope.cos - odd * rope.sin, even * rope.sin + odd * rope.cos), -1).flatten(-2)

    def run(function: Callable[[], torch.Tensor]) -> Work:
        return lambda: function().sum().backward()

    return "RoPE 32 x 4 x 256 x 64 (peer: real arithmetic)", run(lambda: rope(x)), run(real)


def compare(what: str, ours: Work, theirs: Work, rounds: int) -> dict[str, object]:
    """Medians of both over the rounds, and the median ratio within a round."""
    times: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        pair = []
        for work in (ours, theirs):
            began = time.perf_counter()
            work()
            pair.append((time.perf_counter() - began) * 1e3)
        times.append((pair[0], pair[1]))
    times = times[1:]  # the first round warms up
    ratios = sorted(theirs / ours for ours, theirs in times)
    return {
        "what": what,
        "ours_ms": round(median(t[0] for t in times), 2), "torch_ms": round(median(t[1] for t in times), 2),
        "ratio_median": round(median(ratios), 2), "ratio_min": round(ratios[0], 2), "rounds": rounds,
    }  # fmt: skip


def main() -> None:
    """Run all pairs and print one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, object]] = [
        {"what": "machine", "torch": torch.__version__, "threads": options.threads, "cpu": platform.processor(),
         "date": time.strftime("%Y-%m-%d")}
    ]  # fmt: skip
    pairs = [cross_entropy_pair(), adamw_pair(fused=True), adamw_pair(fused=False), embedding_pair(), rope_pair()]
    for what, ours, theirs in pairs:
        rows.append(compare(what, ours, theirs, options.rounds))
        print(json.dumps(rows[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
