"""Memory of a training step, against what torch allocates and what a process takes."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from groundup.account import memory as accounted
from groundup.account.flops import BLOCKED_ROWS
from groundup.account.memory import optimizer_state_bytes, positions_at_once, step_memory
from groundup.config import ModelConfig, OptimConfig, RunConfig, TrainConfig
from groundup.nn import blocked_attention, fused, loss
from groundup.optim import build_optimizer, clip_gradients, muon
from groundup.train.build import build_loss, build_model
from groundup.train.guards import checkpoint_bytes

BASE = {"vocab_size": 6000, "context_length": 128, "d_model": 128, "num_layers": 4, "num_heads": 4}
RUNS: list[dict[str, Any]] = [
    {},
    {"batch": 24},
    {"model": {"d_model": 256, "num_heads": 8}},
    {"train": {"kernels": "plain", "attention": "plain"}},
    {"train": {"kernels": "plain", "precision": "bf16"}},
    {"model": {"vocab_size": 20_000}, "batch": 4},
    {"model": {"d_model": 256, "vocab_size": 500}, "optim": {"optimizer": "muon"}, "batch": 1},
    {"train": {"activation_checkpointing": True}, "batch": 24},
    {"train": {"precision": "bf16"}, "batch": 12},
    {"model": {"ffn": "silu", "norm": "post", "num_kv_heads": 2}, "batch": 12},
    {"model": {"context_length": 512, "vocab_size": 500}, "train": {"attention": "plain"}, "batch": 3},
    {
        "model": {"context_length": 512, "vocab_size": 500, "position": "none"},
        "train": {"attention": "plain", "kernels": "plain", "activation_checkpointing": True},
        "batch": 3,
    },
    {"model": {"norm": "none", "tie_embeddings": True, "vocab_size": 1000}, "batch": 12},
    {"batch": 24, "passes": 3},
    {"batch": 2, "passes": 3},
]


def parts(run: dict[str, Any]) -> tuple[ModelConfig, OptimConfig, TrainConfig, int]:
    model = ModelConfig(**{**BASE, **run.get("model", {})})
    return model, OptimConfig(**run.get("optim", {})), TrainConfig(**run.get("train", {})), run.get("batch", 8)


def a_step(model: ModelConfig, optim: OptimConfig, train: TrainConfig, batch: int, passes: int = 1):
    """One training step, ready to be made again and again."""
    lm = build_model(RunConfig(model=model, train=train), "cpu")
    loss_function = build_loss(lm, compile=False, chunked=train.kernels == "fast")
    optimizer = build_optimizer(lm, optim)
    x = torch.randint(model.vocab_size, (batch, model.context_length))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for _ in range(passes):
            loss_function(x, x.clone()).backward()
        clip_gradients(lm.parameters(), 1.0)
        optimizer.step()

    return lm, optimizer, step


def allocated_at_most(step) -> int:
    """The most bytes of tensors that a step has at once beyond what was there, by the profiler's record of them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_the_peak_of_a_step_is_what_torch_allocates(run):
    model, optim, train, batch = parts(run)
    passes = run.get("passes", 1)
    lm, optimizer, step = a_step(model, optim, train, batch, passes)
    step()
    optimizer.zero_grad(set_to_none=True)
    always_there = checkpoint_bytes(lm, optimizer)
    predicted = step_memory(model, optim, train, batch_size=batch, passes=passes)
    assert predicted.weights + predicted.optimizer_state == always_there
    assert predicted.peak == pytest.approx(always_there + allocated_at_most(step), rel=0.02)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_state_of_an_optimizer_is_what_it_holds(optimizer):
    model, optim, train, batch = parts({"optim": {"optimizer": optimizer}, "batch": 2})
    lm, built, step = a_step(model, optim, train, batch)
    step()
    assert optimizer_state_bytes(model, optim) == checkpoint_bytes(lm, built) - 4 * sum(
        p.numel() for p in lm.parameters()
    )


PROCESS = """
import gc, json, sys
import torch
from groundup.train import build
sys.path.insert(0, sys.argv[1])
from test_memory import BASE, a_step, parts

def kilobytes(field):
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1])

torch.set_num_threads(1)
run = json.loads(sys.argv[2])
small = {"vocab_size": 300, "context_length": 16, "d_model": 32, "num_layers": 1, "num_heads": 2}
_, _, warm_up = a_step(*parts({**run, "model": small, "batch": 2}))
warm_up()
gc.collect()
before = kilobytes("VmRSS")
*kept, step = a_step(*parts(run))
for _ in range(3):
    step()
print(1024 * (kilobytes("VmHWM") - before))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize(
    "run",
    [
        {"model": {"d_model": 256}, "batch": 32},
        {"model": {"d_model": 256}, "batch": 32, "train": {"activation_checkpointing": True}},
        {"model": {"d_model": 256}, "batch": 16, "train": {"kernels": "plain", "attention": "plain"}},
        {"model": {"d_model": 384, "ffn": "silu", "num_layers": 6}, "batch": 16},
        {"model": {"d_model": 512, "num_layers": 6}, "batch": 2, "optim": {"optimizer": "muon"}},
    ],
    ids=str,
)
def test_a_process_takes_what_is_predicted(run):
    """With an allocator that wastes nothing: each large block is the system's own. What glibc's heap wastes beyond,
    where freed memory is kept for speed, is in docs/accounting.md.
    """
    model, optim, train, batch = parts(run)
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17)}
    folder = os.path.dirname(__file__)
    taken = subprocess.run(
        [sys.executable, "-c", PROCESS, folder, json.dumps(run)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert step_memory(model, optim, train, batch_size=batch).peak == pytest.approx(int(taken.stdout), rel=0.1)


def test_sizes_of_chunks_are_those_that_the_layers_take():
    assert accounted.MUON_BATCH_ELEMENTS == muon.BATCH_ELEMENTS
    assert BLOCKED_ROWS == blocked_attention.ROWS
    for positions, vocab_size in ((2048, 10_000), (300, 50_257), (4096, 500), (7, 3), (1000, 32_000)):
        hidden = torch.empty(positions, 1)
        assert positions_at_once(positions, vocab_size) == loss._positions_at_once(hidden, vocab_size)
        rows = loss._rows_at_once(torch.empty(0, vocab_size))
        assert rows == max(1, accounted.ROWS_ELEMENTS["cpu"] // vocab_size)
    width = 1408
    block = next(iter(fused.row_blocks(torch.empty(10_000, 2 * width), 6)))
    assert 5 * 4 * width * block.stop == pytest.approx(accounted.ROW_BLOCKS, rel=0.25)
