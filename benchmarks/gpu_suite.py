"""Benchmark of training and decoding on a GPU: tokens/s, MFU, the optimizer's share of the step, and memory.

    PYTHONPATH=src python benchmarks/gpu_suite.py [--out FILE] [--minutes 9] [--seconds 10] [--quick]

Tokens are synthetic, so only the package is needed. Cases run in order of importance, each in a separate process. Rows
are written as they come; cases that do not fit into --minutes are listed as left out. All cases use bfloat16.

MFU counts 3 x the forward matmuls (2mnp, attention in full) over the card's dense bfloat16 peak from its data sheet;
`share_of_measured_peak` is over the fastest matmul measured in the same process. Steps are timed in blocks, so that the
device is not synchronized after each. --quick uses toy shapes, to try the script on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from groundup.account import parameter_count, peak_flops, training_flops_per_token
from groundup.account.memory import step_memory
from groundup.config import ModelConfig, OptimConfig, RunConfig, TrainConfig
from groundup.generation import Engine, Sampling
from groundup.nn import TransformerLM
from groundup.nn.fast.accelerate import accelerate
from groundup.train.device import device_name
from groundup.version import VERSION
from side_by_side import Report, Row, failed, in_fresh_process, short
from train_measure import make_batches, matmul_peak, matmul_shapes, memory_of_a_pass, timed
from train_peers import Groundup


class Model(NamedTuple):
    """A model shape and batch size, with the best published result for it."""

    shape: dict[str, Any]
    batch_size: int
    published: str = ""
    published_tokens_per_s: float = 0


class Case(NamedTuple):
    """One measurement; ``loss`` is for memory only: "ours", or "full" for all logits at once."""

    model: str
    optimizer: str = "adamw"
    compile: bool = True
    kernels: str = "fast"
    loss: str = ""


class Decode(NamedTuple):
    """One measurement of decoding: texts at once, with the compiled step or without."""

    model: str
    batch_size: int
    compile: bool


MODELS = {
    "report 36M": Model(
        {"vocab_size": 10_000, "context_length": 256, "d_model": 512, "num_layers": 8, "num_heads": 8},
        128, "the report's 36 M run on a GH200", 556e3,
    ),
    "GPT-2 small": Model(
        {"vocab_size": 50_304, "context_length": 1024, "d_model": 768, "num_layers": 12, "num_heads": 12,
         "d_ff": 2048, "tie_embeddings": True},
        32, "modded-nanogpt track 3 on one H200", 490e3,
    ),
    "vocabulary 32k": Model(
        {"vocab_size": 32_000, "context_length": 1024, "d_model": 512, "num_layers": 4, "num_heads": 8}, 16
    ),
    "toy": Model({"vocab_size": 8000, "context_length": 64, "d_model": 64, "num_layers": 1, "num_heads": 2}, 4),
}  # fmt: skip
CASES: list[Case | Decode] = [
    Case("report 36M"),
    Case("GPT-2 small"),
    Case("GPT-2 small", "muon"),
    Case("report 36M", compile=False),
    Case("vocabulary 32k", compile=False, loss="full"),
    Case("vocabulary 32k", compile=False, loss="ours"),
    *(Decode("GPT-2 small", batch_size, compile) for batch_size in (1, 8, 32) for compile in (False, True)),
    Case("GPT-2 small", compile=False),
    Case("report 36M", "muon"),
    Case("GPT-2 small", compile=False, loss="full"),
    Case("GPT-2 small", compile=False, loss="ours"),
    Case("GPT-2 small", "muon", compile=False),
    Case("report 36M", compile=False, kernels="plain"),
    Case("GPT-2 small", compile=False, kernels="plain"),
]
QUICK: list[Case | Decode] = [
    Case("toy", compile=False),
    Case("toy", "muon", compile=False),
    Case("toy", compile=False, loss="full"),
    Case("toy", compile=False, loss="ours"),
    Decode("toy", 3, False),
    Decode("toy", 3, True),
]
PROMPT = 16
LEAST_SECONDS = 20
LOSS_TOLERANCE = 1e-2  # tolerance of a bfloat16 forward pass
BLOCK = 5


def measure(model: str, optimizer: str, compile: bool, kernels: str, loss: str, seconds: float) -> Row:
    """Measure one case in the calling process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    shape, batch_size = ModelConfig(**MODELS[model].shape), MODELS[model].batch_size
    config = RunConfig(
        model=shape,
        optim=OptimConfig(optimizer=optimizer),
        train=TrainConfig(
            precision="bf16", compile=compile, kernels=kernels, device=device,
            attention="plain" if kernels == "plain" else "flash",
        ),
    )  # fmt: skip
    trainee = Groundup(config, device)
    batches = make_batches(shape, batch_size, device)
    if loss:
        return memory_of_a_pass(trainee, *batches[0], full_logits=loss == "full")
    return speed(trainee, batches, seconds, device)


def decode(model: str, batch_size: int, compile: bool, seconds: float) -> Row:
    """Measure the engine's steps, greedy, in the calling process; texts are as long as the context."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    shape = ModelConfig(**MODELS[model].shape)
    lm = accelerate(TransformerLM(shape), kernels="fast", attention="flash").to(device, torch.bfloat16)
    engine = Engine(lm, rows=batch_size, native=False, compile=compile)
    prompts = torch.randint(0, shape.vocab_size, (batch_size, PROMPT)).tolist()
    settings = Sampling(max_tokens=shape.context_length - PROMPT, temperature=0)

    def begin() -> None:
        for ids in prompts:
            engine.submit(ids, settings)
        while engine.waiting:
            engine.step()

    first_step = timed(begin, device)
    for _ in range(BLOCK):
        engine.step()  # records the graph
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        if engine.is_idle:
            begin()
        before = engine.generated
        spent = timed(engine.step, device)
        if engine.generated - before == batch_size:
            times.append(spent)
    step_s = statistics.median(times)
    return {
        "tokens_per_s": round(batch_size / step_s), "step_ms": short(step_s * 1e3), "steps": len(times),
        "first_step_s": short(first_step),
        "peak_memory_gb": None if device == "cpu" else short(torch.cuda.max_memory_allocated() / 1e9),
    }  # fmt: skip


def speed(trainee: Groundup, batches: list[tuple[torch.Tensor, torch.Tensor]], seconds: float, device: str) -> Row:
    """Medians over blocks of steps for about ``seconds``, and over blocks of optimizer steps between them."""
    shape, (batch_size, _) = trainee.config.model, batches[0][0].shape
    first_step = timed(partial(trainee.step, *batches[0]), device)
    block = BLOCK if device != "cpu" else 1

    def steps() -> None:
        results = [trainee.step(*batches[i % len(batches)]) for i in range(block)]
        results[-1]()  # raises if the loss is not finite

    def optimizer_steps() -> None:
        for _ in range(block):
            trainee.optimizer_step()

    steps()  # until the device's clock speed is stable
    shapes = matmul_shapes(shape, batch_size, [8192 if device != "cpu" else 256])
    peak = matmul_peak(shapes, device, torch.bfloat16)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    whole, alone = _alternate(steps, optimizer_steps, seconds, device)
    step_s, tokens = statistics.median(whole) / block, batch_size * shape.context_length
    flops_per_s = tokens / step_s * training_flops_per_token(shape)
    nominal = peak_flops(device_name(device), "bf16")
    return {
        "tokens_per_s": round(tokens / step_s), "step_ms": short(step_s * 1e3), "steps": len(whole) * block,
        "mfu": short(flops_per_s / nominal) if nominal else None,
        "share_of_measured_peak": short(flops_per_s / peak), "matmul_tflops": short(peak / 1e12),
        "optimizer_ms": short(statistics.median(alone) / block * 1e3),
        "optimizer_share": short(statistics.median(alone) / statistics.median(whole)),
        **memory_beside_the_account(trainee.config, batch_size, device),
        "first_step_s": short(first_step),
    }  # fmt: skip


def memory_beside_the_account(config: RunConfig, batch_size: int, device: str) -> Row:
    """Peak allocated memory and the prediction of `groundup account`, which counts a compiled model as uncompiled."""
    if device == "cpu":
        return {"peak_memory_gb": None}
    predicted = step_memory(config.model, config.optim, config.train, batch_size=batch_size, device="cuda").peak
    found = torch.cuda.max_memory_allocated()
    return {
        "peak_memory_gb": short(found / 1e9), "predicted_memory_gb": short(predicted / 1e9),
        "predicted_by_found": short(predicted / found),
    }  # fmt: skip


def _alternate(
    first: Callable[[], object], second: Callable[[], object], seconds: float, device: str
) -> tuple[list[float], list[float]]:
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 3:
        times[0].append(timed(first, device))
        times[1].append(timed(second, device))
    return times


def row_of(case: Case, found: Row) -> Row:
    """Row of a measurement, with the hardware and the best published result."""
    model = MODELS[case.model]
    shape = ModelConfig(**model.shape)
    way = f"{case.kernels} kernels, " + ("compiled" if case.compile else "eager")
    row: Row = {
        "what": "memory of forward and backward" if case.loss else "train step", "ours": f"groundup {VERSION}",
        "case": case.model, "optimizer": None if case.loss else case.optimizer, "call": way,
        "loss": {"full": "all logits, torch's cross_entropy", "ours": "our loss", "": None}[case.loss],
        "parameters": parameter_count(shape), "batch_size": model.batch_size, "context_length": shape.context_length,
        "vocab_size": shape.vocab_size, "precision": "bf16",
    }  # fmt: skip
    if case.loss:
        return row | {"growth_gb": short(found["growth_mb"] / 1e3), "first_loss": short(found["loss"])}
    if model.published:
        row["published"] = f"{model.published}: {model.published_tokens_per_s / 1e3:.0f}k tokens/s"
        row["ratio_to_published"] = short(found["tokens_per_s"] / model.published_tokens_per_s)
    return row | found


def row_of_decoding(case: Decode, found: Row) -> Row:
    """Row of a measurement of decoding."""
    shape = ModelConfig(**MODELS[case.model].shape)
    return {
        "what": "decode", "ours": f"groundup {VERSION}", "case": case.model, "optimizer": None,
        "call": "compiled" if case.compile else "eager", "parameters": parameter_count(shape),
        "batch_size": case.batch_size, "context_length": shape.context_length, "vocab_size": shape.vocab_size,
        "precision": "bf16",
    } | found  # fmt: skip


def main() -> None:
    """Measure as many cases as fit into the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--minutes", type=float, default=9, help="time limit for all cases")
    parser.add_argument("--seconds", type=float, default=10, help="time of the timed steps of a case")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.quick:
        parser.error("there is no GPU; --quick tries the script on the CPU")
    end = time.monotonic() + 60 * options.minutes
    report = Report(options.out, device=device_name(device), torch=torch.__version__, cuda=torch.version.cuda)
    full_logits: dict[str, Row] = {}
    eager: dict[tuple[str, int], float] = {}
    for case in QUICK if options.quick else CASES:
        about = {"what": "left out"} | case._asdict()
        left = end - time.monotonic()
        if left < LEAST_SECONDS:
            report.add(about | {"why": f"the {options.minutes:g} minutes are over"})
            continue
        seconds = 0.2 if options.quick else options.seconds
        function = "gpu_suite:decode" if isinstance(case, Decode) else "gpu_suite:measure"
        found = in_fresh_process(function, case._asdict() | {"seconds": seconds}, threads=1, time_limit=left)
        if failed(found):
            report.add_failure(about, found)
            continue
        if isinstance(case, Decode):
            row = row_of_decoding(case, found)
            if case.compile and (case.model, case.batch_size) in eager:
                row["ratio_to_eager"] = short(found["tokens_per_s"] / eager[case.model, case.batch_size])
            elif not case.compile:
                eager[case.model, case.batch_size] = found["tokens_per_s"]
            report.add(row)
            continue
        row = row_of(case, found)
        if case.loss == "full":
            full_logits[case.model] = found
        elif case.loss and case.model in full_logits:
            peer = full_logits[case.model]
            row["ratio_to_full_logits"] = short(found["growth_mb"] / peer["growth_mb"])
            row["losses_agree"] = abs(found["loss"] - peer["loss"]) <= LOSS_TOLERANCE
        report.add(row)
    report.finish(
        ["case", "model", "optimizer", "call", "batch_size", "loss", "tokens_per_s", "ratio_to_published",
         "ratio_to_eager", "mfu",
         "share_of_measured_peak", "optimizer_share", "peak_memory_gb", "predicted_by_found", "growth_gb",
         "ratio_to_full_logits", "first_step_s", "losses_agree", "why", "timed_out_s", "error"]
    )  # fmt: skip


if __name__ == "__main__":
    main()
