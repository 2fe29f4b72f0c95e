"""Measured memory (by three measures) and time of a training step.

`account_accuracy.py` and the tests of `groundup account` use it.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundup.account.time import cpu_step_seconds
from groundup.config import ModelConfig, RunConfig, from_dict
from groundup.optim import build_optimizer, clip_gradients
from groundup.train.build import build_model
from groundup.train.device import process_settings
from groundup.train.step import build_loss

Row = dict[str, Any]
PRODUCT = 1024
"""Rows and columns of the matmul that measures the machine, as in groundup.train.device."""


class Step:
    """A repeatable training step of a run on synthetic tokens; it changes no process settings."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.model = build_model(config, "cpu")
        chunked = config.train.kernels == "fast"
        self.loss: Callable[[Tensor, Tensor], Tensor] = build_loss(self.model, compile=False, chunked=chunked)
        self.optimizer = build_optimizer(self.model, config.optim)
        batch_size, self.passes = config.data.batch_size // config.data.micro_batches(), config.data.micro_batches()
        self.x = torch.randint(config.model.vocab_size, (batch_size, config.model.context_length))

    def __call__(self) -> None:
        """Forward, backward, clipping and update."""
        self.optimizer.zero_grad(set_to_none=True)
        for _ in range(self.passes):
            self.loss(self.x, self.x.clone()).backward()
        clip_gradients(self.model.parameters(), 1.0)
        self.optimizer.step()


def run_of(run: dict[str, dict[str, Any]]) -> RunConfig:
    """RunConfig from nested values: ``{"model": {…}, "data": {"batch_size": 8}}``."""
    return from_dict(RunConfig, run)


def saved_by_autograd(config: RunConfig) -> int:
    """Bytes of the distinct storages that autograd saves in a forward pass, without weights."""
    step = Step(config)
    weights = {p.untyped_storage().data_ptr() for p in step.model.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in weights:
            seen[memory.data_ptr()] = memory.nbytes()
        return tensor.detach()  # keeps the memory allocated, so that no address is reused

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = step.loss(step.x, step.x.clone())
    del result
    return sum(seen.values())


def allocated_at_most(step: Callable[[], None]) -> int:
    """Peak bytes of tensors that a step allocates beyond those before it, from the profiler's record."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def tensor_peak(config: RunConfig) -> int:
    """Peak bytes of tensors in a step after the first, including weights and optimizer state."""
    step = Step(config)
    step()
    step.optimizer.zero_grad(set_to_none=True)
    state = [v for values in step.optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]
    there = sum(p.nbytes for p in step.model.parameters()) + sum(v.nbytes for v in state)
    return there + allocated_at_most(step)


def process_growth(run: dict[str, dict[str, Any]], prepared: bool = False) -> Row:
    """Growth of this process's peak resident memory over three steps. Linux only.

    Args:
        prepared: use the process settings of `groundup train`, with which the C library keeps freed memory.
    """
    torch.set_num_threads(1)
    config = run_of(run)
    with process_settings(config.train, "cpu") if prepared else nullcontext():
        return _step_memory(config)


def _step_memory(config: RunConfig) -> Row:
    small = ModelConfig(vocab_size=300, context_length=16, d_model=32, num_layers=1, num_heads=2)
    Step(RunConfig(model=small, optim=config.optim, train=config.train))()
    gc.collect()
    before = _resident("VmRSS")
    step = Step(config)
    for _ in range(3):
        step()
    return {"bytes": _resident("VmHWM") - before}


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def step_time(run: dict[str, dict[str, Any]], seconds: float = 6.0) -> Row:
    """Median seconds of a step, and the prediction from the matmul throughput measured between the steps.

    On one thread it is CPU time, which other processes disturb less; on several threads it is wall-clock time.
    """
    config = run_of(run)
    with process_settings(config.train, "cpu"):
        return _step_time(config, seconds)


def _step_time(config: RunConfig, seconds: float) -> Row:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    step = Step(config)
    step()
    step()
    left, right = torch.randn(2, PRODUCT, PRODUCT)
    out = torch.empty(PRODUCT, PRODUCT)
    times, products = [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        for _ in range(3):
            began = clock()
            torch.mm(left, right, out=out)
            products.append(clock() - began)
        began = clock()
        step()
        times.append(clock() - began)
    flops_per_s = 2 * PRODUCT**3 / statistics.median(products)
    predicted = cpu_step_seconds(
        config.model, config.train, batch_size=config.data.batch_size, flops_per_second=flops_per_s
    )
    found = statistics.median(times)
    return {"seconds": found, "predicted_seconds": predicted, "matmul_flops_per_s": flops_per_s, "steps": len(times)}
