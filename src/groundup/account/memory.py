"""Memory of a training step: weights, optimizer state, saved activations and their peak; and the memory available."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from groundup.account.activations import Saved, saved_activations, saved_by_a_block, without_checkpointing
from groundup.account.params import hidden_matrices, parameters
from groundup.config import ModelConfig, OptimConfig, TrainConfig

# Shapes: B batch, S sequence, D d_model, F d_ff, V vocabulary, N positions, P parameters.

_FLOAT32 = 4
# Chunk sizes of groundup.optim and groundup.nn, which import torch; a test compares them.
MUON_BATCH_ELEMENTS = {"cpu": 2**21, "cuda": 2**24}
LOSS_ELEMENTS = {"cpu": 2**22, "cuda": 2**28}
ROWS_ELEMENTS = {"cpu": 2**18, "cuda": 2**27}
GATE_ELEMENTS = 2**20 // 12
CUBLAS_WORKSPACE = 2 * 2**25
"""Bytes of torch's cuBLAS workspaces: 32 MiB on Hopper (8 MiB on cards before it) for each of the two threads that run
matmuls, forward and backward. max_memory_allocated counts them."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one training process, without torch itself and the allocator's fragmentation."""

    weights: int
    gradients: int
    optimizer_state: int
    average: int
    """Average of the weights, with train.average_last."""
    kept: list[Saved]
    """Saved activations."""
    working: int
    """Temporary tensors at the moment of the peak."""
    workspace: int
    """cuBLAS workspaces, on a GPU, throughout the step."""
    checkpoint_copy: int
    """Host memory while a checkpoint is written in the background; on a CPU part of the same memory."""
    needed: int
    """Memory of the device: the peak, and on a CPU the copy of a checkpoint."""
    peak: int
    """Most bytes at one time, without the copy of a checkpoint. Less than the sum of the parts: gradients are allocated
    as activations are freed."""
    moment: str
    """When the peak occurs: "loss", "backward" or "update"."""

    @property
    def activations(self) -> int:
        """All saved activations."""
        return sum(tensor.size for tensor in self.kept)

    @property
    def fixed(self) -> int:
        """Weights, gradients, optimizer state and average, which do not depend on the batch."""
        return self.weights + self.gradients + self.optimizer_state + self.average


def optimizer_state_bytes(model: ModelConfig, optim: OptimConfig) -> int:
    """Float32 state: 8P for AdamW's two moments; Muon has one for the matrices between embedding and head, and with
    muon_variance one number for each of their rows.
    """
    total = parameters(model).total
    rows = sum(matrices * rows for (rows, _), matrices in hidden_matrices(model).items()) if optim.muon_variance else 0
    hidden = sum(matrices * rows * columns for (rows, columns), matrices in hidden_matrices(model).items())
    return _FLOAT32 * (2 * total - (hidden - rows if optim.optimizer == "muon" else 0))


def step_memory(
    model: ModelConfig,
    optim: OptimConfig,
    train: TrainConfig,
    *,
    batch_size: int,
    micro_batches: int = 1,
    device: str = "cpu",
) -> StepMemory:
    """Predict the memory of a training step after the first, which creates the optimizer's state.

    Args:
        batch_size: sequences of one micro-batch.
        micro_batches: micro-batches of a step (gradient accumulation steps).
        device: "cpu" or "cuda".
    """
    count = parameters(model)
    weights = _FLOAT32 * count.total
    state = optimizer_state_bytes(model, optim)
    average = weights if train.average_last else 0
    kept = saved_activations(model, train, batch_size=batch_size, device=device)
    # Those accumulated from the micro-batches before.
    gradients = weights if micro_batches > 1 else 0
    moments = {
        "loss": _at_the_loss(model, train, kept, gradients, batch_size, device),
        "backward": _in_the_backward(model, train, kept, gradients, batch_size, device),
        "update": (weights, _update(model, optim, device)),
    }
    moment = max(moments, key=lambda name: sum(moments[name]))
    held, working = moments[moment]
    workspace = CUBLAS_WORKSPACE if device == "cuda" else 0
    peak = weights + state + average + held + working + workspace
    copy = weights + state + average if train.background_checkpoints else 0
    return StepMemory(
        weights=weights,
        gradients=weights,
        optimizer_state=state,
        average=average,
        kept=kept,
        working=working,
        workspace=workspace,
        checkpoint_copy=copy,
        needed=peak + (0 if device == "cuda" else copy),
        peak=peak,
        moment=moment,
    )


def _at_the_loss(
    model: ModelConfig, train: TrainConfig, kept: list[Saved], gradients: int, batch_size: int, device: str
) -> tuple[int, int]:
    """Bytes held at the loss (all saved activations), and its temporary tensors."""
    width = _width(train)
    held = gradients + sum(tensor.size for tensor in kept)
    positions, vocab_size = batch_size * model.context_length, model.vocab_size
    some_rows = _FLOAT32 * max(vocab_size, min(positions * vocab_size, ROWS_ELEMENTS.get(device, 2**27)))
    if train.kernels == "plain":
        return held, some_rows
    chunk = positions_at_once(positions, vocab_size, device)
    logits, weight = width * chunk * vocab_size, vocab_size * model.d_model
    if width == _FLOAT32:  # a chunk's logits are overwritten in place
        return held, logits
    # The weight in bfloat16, and a chunk's gradient of it, which a CPU casts to float32 before it is accumulated.
    gradient = width * weight + (_FLOAT32 * weight if device == "cpu" else 0)
    return held, logits + some_rows + width * weight + (gradient if chunk < positions else width * weight)


def _in_the_backward(
    model: ModelConfig, train: TrainConfig, kept: list[Saved], gradients: int, batch_size: int, device: str
) -> tuple[int, int]:
    """Bytes held when activations and gradients together are largest, and the temporary tensors at that moment."""
    count = parameters(model)
    layers = model.num_layers
    blocks = [tensor for tensor in kept if tensor.in_block]
    per_block = sum(tensor.size for tensor in blocks) // layers
    recomputed = saved_by_a_block(model, train, batch_size=batch_size, device=device)
    block_gradient, head_gradient = _FLOAT32 * count.block, _FLOAT32 * (count.head or count.embedding)
    working = max(_at_the_gate(model, train, batch_size, device), _at_attention(model, train, batch_size, device))
    if train.activation_checkpointing:
        # The block's input is the first of the recomputed tensors.
        copied = train.kernels == "plain" and _width(train) == 2 and model.norm == "pre"
        working += recomputed - (0 if copied else _stream(model, train, batch_size))
    if gradients:
        return gradients + layers * per_block, working
    # Gradients are allocated as activations are freed: the peak is at the last block, or at the first.
    tables, with_values = _FLOAT32 * count.value_embeddings, model.value_layers
    above = tables * (len(with_values) - (0 in with_values)) // max(1, len(with_values))
    last, first = layers * per_block, per_block + (layers - 1) * block_gradient + above
    return head_gradient + max(last, first), working


def _at_the_gate(model: ModelConfig, train: TrainConfig, batch_size: int, device: str) -> int:
    """Temporary tensors halfway through the feed-forward network's gradient.

    The gradients of both factors of the gate, and of W2; the input of W2 is freed already.
    """
    stream, inner = _stream(model, train, batch_size), _inner(model, train, batch_size)
    rows_at_once = 0
    if train.kernels == "fast" and model.ffn == "swiglu":
        rows = batch_size * model.context_length  # on a GPU; on a CPU a block of rows that stays in its cache
        if device == "cpu":
            rows = min(rows, max(16, GATE_ELEMENTS // model.ffn_dim))
        # sigmoid(a), SiLU(a), their sum, and the slope
        rows_at_once = 4 * _width(train) * rows * model.ffn_dim
    w2_gradient = _FLOAT32 * model.d_model * model.ffn_dim
    # A norm after the sublayer has its gradient already and has freed its saved tensors.
    through = 0 if model.norm == "post" else stream
    return through + 2 * inner + w2_gradient + rows_at_once


def _at_attention(model: ModelConfig, train: TrainConfig, batch_size: int, device: str) -> int:
    """Temporary tensors of the softmax's gradient where all scores exist: five of their size.

    Of the block's saved tensors only those before the softmax are left.
    """
    if train.attention == "flash":
        return 0
    kept = saved_activations(model, without_checkpointing(train), batch_size=batch_size, device=device)
    sizes = {tensor.name: tensor.size // tensor.times for tensor in kept if tensor.component == "attention"}
    block = [tensor for tensor in kept if tensor.in_block]
    gone = sum(tensor.size // tensor.times for tensor in block if tensor.component == "feed-forward")
    gone += sum(tensor.size // tensor.times for tensor in block if tensor.component == "norms") // 2
    gone += sizes["attention weights"] + sizes["values"] + sizes["weighted values"]
    gradients = _FLOAT32 * (parameters(model).ffn + parameters(model).output_proj)
    return 2 * _stream(model, train, batch_size) + 5 * sizes["scores"] + gradients - gone


def _stream(model: ModelConfig, train: TrainConfig, batch_size: int) -> int:
    return _width(train) * batch_size * model.context_length * model.d_model


def _inner(model: ModelConfig, train: TrainConfig, batch_size: int) -> int:
    return _width(train) * batch_size * model.context_length * model.ffn_dim


def _width(train: TrainConfig) -> int:
    return 2 if train.precision == "bf16" else _FLOAT32


def _update(model: ModelConfig, optim: OptimConfig, device: str) -> int:
    """Temporary tensors of the optimizer."""
    if optim.optimizer != "muon":
        return 0
    limit = MUON_BATCH_ELEMENTS.get(device, 2**24)
    most = 0
    for (rows, columns), matrices in hidden_matrices(model).items():
        batch = min(matrices, max(1, limit // (rows * columns)))
        # The direction, its normalized copy and the next one; its Gram matrix and the polynomial of that.
        most = max(most, batch * (3 * rows * columns + 2 * min(rows, columns) ** 2))
    # On a GPU the iterations run in bfloat16 (groundup.optim.muon.matrix_dtype).
    return (2 if device == "cuda" else _FLOAT32) * most


def positions_at_once(positions: int, vocab_size: int, device: str = "cpu") -> int:
    """Positions per chunk of the loss that never holds all logits (groundup.nn.fast.linear_loss)."""
    chunks = -(-positions // max(256, LOSS_ELEMENTS.get(device, 2**28) // vocab_size))
    # The search is bounded: with more chunks a loss would take too long to be run at all.
    even = next((n for n in range(chunks, min(2 * chunks, chunks + 10**4)) if positions % n == 0), chunks)
    return -(-positions // even)


_UNLIMITED = 2**60
"""cgroup v1 writes "no limit" as a number above this one."""


def available_memory(root: Path = Path("/")) -> float:
    """Bytes that this process can use, including those it uses already.

    The smaller of the system's available memory (free or reclaimable cache, and free swap) and what the limits of the
    process's control groups leave (containers, SLURM, systemd). Except on Linux, all memory of the machine.

    Args:
        root: folder that contains ``proc`` and ``sys``.
    """
    own = resident_memory(root)
    available = [limit - used + own for limit, used in _control_groups(root)]
    if system := _meminfo(root):
        available.append(system + own)
    return max(0, min(available)) if available else _all_memory()


def _meminfo(root: Path) -> int:
    fields = _numbers(root / "proc" / "meminfo")
    if "MemAvailable:" not in fields:
        return 0
    return 1024 * (fields["MemAvailable:"] + fields.get("SwapFree:", 0))


def resident_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process occupies; 0 except on Linux."""
    return 1024 * _numbers(root / "proc" / "self" / "status").get("VmRSS:", 0)


def _numbers(path: Path) -> dict[str, int]:
    """First and second word of each line, where the second is a number."""
    try:
        words = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdecimal()}


def _control_groups(root: Path) -> list[tuple[int, int]]:
    """Limit and usage of each control group of this process, and of its parents, that has a limit."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    found = []
    for hierarchy, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1):
        mount = root / "sys" / "fs" / "cgroup"
        version = 2 if hierarchy == "0" else 1
        if version == 1 and "memory" not in controllers.split(","):
            continue
        group = Path(path.strip("/"))
        for folder in (group, *group.parents):
            place = mount / ("memory" if version == 1 else "unified" if (mount / "unified").is_dir() else "") / folder
            if (limits := _limit_and_use(place, version)) is not None:
                found.append(limits)
    return found


def _limit_and_use(folder: Path, version: int) -> tuple[int, int] | None:
    limit_file, use_file, cache = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    try:
        limit = int((folder / limit_file).read_text())
        used = int((folder / use_file).read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None
    # Inactive page cache is dropped before the limit is enforced.
    return (limit, used - _numbers(folder / "memory.stat").get(cache, 0)) if limit < _UNLIMITED else None


def _all_memory() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError):
        return math.inf
