"""Memory of a training step, against what torch allocates and what a process takes."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from account_measure import Step, process_growth, run_of, tensor_peak
from groundup.account import memory as accounted
from groundup.account.flops import BLOCKED_ROWS
from groundup.account.memory import StepMemory, optimizer_state_bytes, positions_at_once, step_memory
from groundup.config import RunConfig, to_dict
from groundup.nn.fast import attention as fast_attention
from groundup.nn.fast import layers as fast_layers
from groundup.nn.fast import linear_loss, loss
from groundup.optim import muon
from side_by_side import in_fresh_process

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
    {"model": {"value_embeddings": "alternate", "residual_scalars": True, "vocab_size": 2000}, "batch": 3},
    {
        "model": {"value_embeddings": "alternate", "residual_scalars": True},
        "train": {"activation_checkpointing": True, "precision": "bf16"},
        "batch": 12,
    },
    {"batch": 24, "passes": 3},
    {"batch": 2, "passes": 3},
]


def config_of(run: dict[str, Any]) -> RunConfig:
    batch, passes = run.get("batch", 8), run.get("passes", 1)
    sections = {name: run.get(name, {}) for name in ("optim", "train")}
    data = {"batch_size": batch * passes, "micro_batch_size": batch}
    return run_of({"model": {**BASE, **run.get("model", {})}, "data": data, **sections})


def predicted(config: RunConfig) -> StepMemory:
    passes = config.data.micro_batches()
    return step_memory(
        config.model, config.optim, config.train, batch_size=config.data.batch_size // passes, micro_batches=passes
    )


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_the_peak_of_a_step_is_what_torch_allocates(run):
    config = config_of(run)
    assert predicted(config).peak == pytest.approx(tensor_peak(config), rel=0.02)


@pytest.mark.parametrize(
    "options", [{"optimizer": "adamw"}, {"optimizer": "muon"}, {"optimizer": "muon", "muon_variance": 0.9}]
)
def test_the_state_of_an_optimizer_is_what_it_holds(options):
    config = config_of({"optim": options, "batch": 2})
    step = Step(config)
    step()
    assert predicted(config).weights == sum(p.nbytes for p in step.model.parameters())
    # What the optimizer holds for each parameter; a step counter is one number, and not of the model's size.
    held = [value for state in step.optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    assert optimizer_state_bytes(config.model, config.optim) == sum(value.nbytes for value in held if value.ndim)
    assert predicted(config).optimizer_state == optimizer_state_bytes(config.model, config.optim)
    assert all(value.numel() == 1 for value in held if not value.ndim)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize(
    "run",
    [
        {"model": {"d_model": 256}, "batch": 32},
        *(
            pytest.param(run, marks=pytest.mark.long)
            for run in (
                {"model": {"d_model": 256}, "batch": 32, "train": {"activation_checkpointing": True}},
                {"model": {"d_model": 256}, "batch": 16, "train": {"kernels": "plain", "attention": "plain"}},
                {"model": {"d_model": 384, "ffn": "silu", "num_layers": 6}, "batch": 16},
                {"model": {"d_model": 512, "num_layers": 6}, "batch": 2, "optim": {"optimizer": "muon"}},
            )
        ),
    ],
    ids=str,
)
def test_a_process_takes_what_is_predicted(run):
    """With an allocator that wastes nothing: each large block is the system's own. What glibc's heap wastes beyond,
    where freed memory is kept for speed, is in docs/explanation/costs.md.
    """
    config = config_of(run)
    exact = {"MALLOC_MMAP_THRESHOLD_": str(2**17)}
    name = f"account_measure:{process_growth.__name__}"
    found = in_fresh_process(name, {"run": to_dict(config)}, threads=1, time_limit=300, variables=exact)
    assert predicted(config).peak == pytest.approx(found["bytes"], rel=0.1)


@pytest.mark.parametrize(
    "run",
    [
        {"batch": 16},
        {"model": {"d_model": 256}, "batch": 12},
        {"train": {"precision": "bf16"}, "batch": 24},
        {"train": {"activation_checkpointing": True}, "batch": 24},
        {"train": {"precision": "bf16", "activation_checkpointing": True}, "batch": 24},
        {"model": {"norm": "post"}, "batch": 16},
        {"model": {"num_kv_heads": 1}, "batch": 16},
    ],
    ids=str,
)
def test_on_a_gpu_the_layers_take_all_rows_at_once(run, monkeypatch):
    """The same code with the sizes that it takes on a GPU, where there is none; only attention's kernel is another."""
    monkeypatch.setattr(fast_layers, "row_blocks", lambda x, temporaries: iter([slice(None)]))
    monkeypatch.setattr(loss, "_rows_at_once", lambda logits: accounted.ROWS_ELEMENTS["cuda"] // logits.shape[-1])
    monkeypatch.setattr(linear_loss, "_positions_at_once", lambda x, size: positions_at_once(len(x), size, "cuda"))
    monkeypatch.setattr(fast_attention, "suits", lambda queries: False)
    config = config_of({**run, "model": {"vocab_size": 500, **run.get("model", {})}})
    said = step_memory(config.model, config.optim, config.train, batch_size=config.data.batch_size, device="cuda")
    assert said.moment == "backward"
    assert said.peak - said.workspace == pytest.approx(tensor_peak(config), rel=0.02)


def test_sizes_of_chunks_are_those_that_the_layers_take():
    assert accounted.MUON_BATCH_ELEMENTS == muon.BATCH_ELEMENTS
    assert BLOCKED_ROWS == fast_attention.ROWS
    for positions, vocab_size in ((2048, 10_000), (300, 50_257), (4096, 500), (7, 3), (1000, 32_000)):
        hidden = torch.empty(positions, 1)
        assert positions_at_once(positions, vocab_size) == linear_loss._positions_at_once(hidden, vocab_size)
        rows = loss._rows_at_once(torch.empty(0, vocab_size))
        assert rows == max(1, accounted.ROWS_ELEMENTS["cpu"] // vocab_size)
    for width in (64, 1408, 100_000):
        block = next(iter(fast_layers.row_blocks(torch.empty(10_000, 2 * width), 6)))
        assert block.stop == max(16, accounted.GATE_ELEMENTS // width)
