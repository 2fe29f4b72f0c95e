"""Measurements of training for `train_step.py` and `gpu_suite.py`, each for a fresh process.

Every function takes and returns JSON values, and is called by name through `side_by_side.in_fresh_process`, whose
environment sets the number of threads.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundup.account import parameter_count, training_flops_per_token
from groundup.config import ModelConfig
from groundup.record.run import RunDirectory
from groundup.system.process import use_wide_matmul
from groundup.train.checkpoint.folder import CheckpointContent
from groundup.train.checkpoint.writer import CheckpointWriter
from groundup.train.state import TrainState
from side_by_side import Row, UnavailableError, clocks, peak_mb, since
from train_peers import Groundup, Trainee, make

WARM_UP_STEPS = 5
BATCHES = 4
CHECKPOINTS = 3


def make_batches(shape: ModelConfig, batch_size: int, device: str = "cpu") -> list[tuple[Tensor, Tensor]]:
    """A few batches, the same for all contenders: inputs and targets ``(batch_size, context_length)``.

    Low ids are frequent, as in text, so that the gradients of some embedding rows are sums of many terms.
    """
    generator = torch.Generator().manual_seed(1)
    size = (BATCHES, batch_size, shape.context_length + 1)
    ids = (torch.rand(size, generator=generator) ** 6 * shape.vocab_size).long().to(device)
    return [(part[:, :-1].contiguous(), part[:, 1:].contiguous()) for part in ids]


def speed(
    who: str,
    model: dict[str, Any],
    batch_size: int,
    seconds: float,
    squares: Sequence[int],
    same_matmul: bool = False,
) -> Row:
    """Time whole steps for about ``seconds``, after the warm-up, and the process's matmul peak before and after.

    Args:
        squares: sizes of square matmuls for the peak, in addition to the model's own.
        same_matmul: use groundup's matmul library for every contender.
    """
    if same_matmul:
        use_wide_matmul()
    shape = ModelConfig(**model)
    trainee, batches = make(who, model), make_batches(shape, batch_size)
    began = time.perf_counter()
    losses = [trainee.step(*batches[0])()]
    first_step = time.perf_counter() - began
    losses += [trainee.step(*batches[i % BATCHES])() for i in range(1, WARM_UP_STEPS)]
    shapes = matmul_shapes(shape, batch_size, squares)
    peak = matmul_peak(shapes)
    steps = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(steps) < 3:
        start = clocks()
        trainee.step(*batches[len(steps) % BATCHES])()
        steps.append(since(start))
    tokens = batch_size * shape.context_length
    step_s = statistics.median(wall for _, wall in steps)
    return {
        "tokens_per_s": tokens / step_s,
        "tokens_per_cpu_s": tokens / statistics.median(cpu for cpu, _ in steps),
        "steps": len(steps),
        "first_step_s": first_step,
        "losses": losses,
        "parameters": parameter_count(shape),
        "flops_per_s": tokens * training_flops_per_token(shape) / step_s,
        "matmul_flops_per_s": max(peak, matmul_peak(shapes)),
        "peak_mb": peak_mb(),
    }


def matmul_shapes(shape: ModelConfig, batch_size: int, squares: Sequence[int]) -> list[tuple[int, int, int]]:
    """(m, n, p) of square matmuls, and of the model's largest matmuls."""
    tokens, d, f, v = batch_size * shape.context_length, shape.d_model, shape.ffn_dim, shape.vocab_size
    return [(n, n, n) for n in squares] + [(tokens, d, f), (tokens, f, d), (f, tokens, d), (tokens, d, v)]


def matmul_peak(
    shapes: Sequence[tuple[int, int, int]], device: str = "cpu", dtype: torch.dtype = torch.float32, repeats: int = 5
) -> float:
    """FLOP/s of the fastest of these matmuls, each at its best of ``repeats``.

    The right factor is transposed like a layer's weight, which is also the fastest layout.
    """
    best = 0.0
    for m, n, p in shapes:
        left = torch.randn(m, n, device=device, dtype=dtype)
        right = torch.randn(p, n, device=device, dtype=dtype).T
        out = torch.empty(m, p, device=device, dtype=dtype)
        work = partial(torch.mm, left, right, out=out)
        work()
        shortest = min(timed(work, device) for _ in range(repeats))
        best = max(best, 2 * m * n * p / shortest)
    return best


def timed(work: Callable[[], object], device: str = "cpu") -> float:
    """Wall-clock seconds until the work is done on the device."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: str) -> None:
    """Synchronize the device, so that times are valid."""
    if device != "cpu":
        torch.cuda.synchronize()


def memory(who: str, model: dict[str, Any], batch_size: int, full_logits: bool) -> Row:
    """Memory growth of the process in one forward and backward pass, with gradients, beyond model and batch.

    With ``full_logits`` the contender's model returns all logits, and torch's cross-entropy takes them in float32.
    """
    shape = ModelConfig(**model)
    trainee = make(who, model)
    x, y = make_batches(shape, batch_size)[0]
    return memory_of_a_pass(trainee, x, y, full_logits=full_logits)


def memory_of_a_pass(trainee: Trainee, x: Tensor, y: Tensor, *, full_logits: bool) -> Row:
    """MB of growth in forward and backward; and the loss, which is the same for all methods."""

    def loss(x: Tensor, y: Tensor) -> Tensor:
        if not full_logits:
            return trainee.loss(x, y)
        logits = trainee.model(x)
        return torch.nn.functional.cross_entropy(logits.flatten(0, -2).float(), y.flatten())

    loss(x[:1, :16], y[:1, :16]).backward()  # libraries allocate buffers and start threads
    trainee.model.zero_grad(set_to_none=True)
    value = 0.0

    def work() -> None:
        nonlocal value
        found = loss(x, y)
        found.backward()
        value = found.item()

    return {"growth_mb": peak_growth(work, x.device.type), "loss": value}


def peak_growth(work: Callable[[], object], device: str = "cpu") -> float:
    """Peak MB of the work beyond the memory before it: of the process, or of the device's tensors.

    Raises:
        UnavailableError: this system does not let a process reset its peak.
    """
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        synchronize(device)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    before = _reset_peak()
    work()
    return peak_mb() - before


def _reset_peak() -> float:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        raise UnavailableError("the peak of memory cannot be reset here; run this part on Linux") from None
    return peak_mb()


def optimizer(who: str, model: dict[str, Any], batch_size: int, steps: int, optimizer: str) -> Row:
    """Seconds of whole steps, and of the optimizer step alone."""
    shape = ModelConfig(**model)
    trainee, batches = make(who, model, optimizer=optimizer), make_batches(shape, batch_size)
    trainee.step(*batches[0])()
    whole, alone = [], []
    for x, y in islice(cycle(batches), steps):
        whole.append(timed(lambda x=x, y=y: trainee.step(x, y)()))
        # Alone, right after a step: with the same gradients, and caches as cold as within a step.
        alone.append(timed(trainee.optimizer_step))
    return {
        "step_s": statistics.median(whole), "optimizer_s": statistics.median(alone),
        "share": statistics.median(alone) / statistics.median(whole), "parameters": parameter_count(shape),
    }  # fmt: skip


def checkpoints(model: dict[str, Any], batch_size: int, steps: int, background: bool) -> Row:
    """Seconds of steps without a checkpoint, of saving one, and of the steps while it is written.

    Args:
        steps: number of steps between two checkpoints; enough to write one.
    """
    shape = ModelConfig(**model)
    trainee, batches = make("groundup", model), make_batches(shape, batch_size)
    assert isinstance(trainee, Groundup)
    alone: list[float] = []
    saving: list[float] = []
    beside: list[float] = []
    writing: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(folder)
        run.create(trainee.config, {})
        writer = CheckpointWriter(run, keep=1, background=background, sync_record=lambda: None)

        def step(i: int) -> float:
            return timed(lambda: trainee.step(*batches[i % BATCHES])())

        def save(number: int) -> None:
            writer.save(
                number, CheckpointContent.of(trainee.model, trainee.optimizer, TrainState(step=number).to_dict())
            )

        for i in range(WARM_UP_STEPS):
            step(i)
        for number in range(CHECKPOINTS + 1):
            alone += [step(i) for i in range(steps)]
            began = time.perf_counter()
            saved = timed(lambda: save(number))  # noqa: B023 - called at once
            during = []
            for i in range(steps):
                if not writer.idle:
                    during.append(step(i))
            while not writer.idle:
                time.sleep(0.001)
            if number:  # the first allocates the buffers
                saving.append(saved)
                beside += during
                writing.append(time.perf_counter() - began)
        writer.close()
    usual = statistics.median(alone)
    # Extra time of a checkpoint beyond the steps during it, over the normal time of those steps.
    cost = statistics.median(saving) + sum(beside) / len(writing) - usual * len(beside) / len(writing)
    return {
        "step_s": usual, "save_s": statistics.median(saving), "beside_s": statistics.median(beside or [usual]),
        "slower_beside": statistics.median(beside or [usual]) / usual, "writing_s": statistics.median(writing),
        "cost_steps": cost / usual, "parameters": parameter_count(shape),
    }  # fmt: skip


def startup_data(folder: str) -> Row:
    """Write stories, a tokenizer and token shards to train on into ``folder``."""
    from groundup.data.encode import encode_files
    from groundup.text.stories import write_stories
    from groundup.tokenizer import Tokenizer, train_bpe

    text = Path(folder) / "stories.txt"
    write_stories(text, 2_000_000, seed=0, separator="<|endoftext|>")
    vocab, merges = train_bpe(text, 2048, ["<|endoftext|>"])
    encode_files(text, Tokenizer(vocab, merges, ["<|endoftext|>"]), Path(folder) / "shards")
    return {"shards": str(Path(folder) / "shards")}


def startup(shards: str, folder: str, options: Mapping[str, object]) -> Row:
    """Seconds from the start of `groundup train` until the metrics of its first step are written.

    The time of `import torch` alone is measured for comparison.
    """
    imported = timed(lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True))
    given = {
        "--name": "startup", "--runs_dir": folder, "--data.train": shards, "--train.max_iters": 2,
        "--train.log_interval": 1, "--optim.warmup_iters": 1, "--sample.interval": 0, "--train.device": "cpu",
        **options,
    }  # fmt: skip
    command = [sys.executable, "-m", "groundup", "train", "--overwrite", *map(str, _flat(given))]
    metrics = Path(folder) / "startup" / "metrics.jsonl"
    metrics.unlink(missing_ok=True)
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
        while not _has_step_one(metrics):
            if running.poll() is not None and not _has_step_one(metrics):
                message = running.stderr.read().decode("utf-8", "replace") if running.stderr else ""
                raise RuntimeError(f"groundup train ended before its first step: {message.strip()[-500:]}")
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        running.communicate()
    return {"seconds": seconds, "import_torch_s": imported}


def _has_step_one(metrics: Path) -> bool:
    try:
        lines = metrics.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return False
    return any(json.loads(line)["step"] >= 1 for line in lines)


def _flat(options: Mapping[str, object]) -> list[object]:
    return [part for pair in options.items() for part in pair]
