"""Memory of a training step: what is there all the time, what a forward pass keeps, and the peak of both."""

from __future__ import annotations

from dataclasses import dataclass

from groundup.account.activations import Kept, kept_for_backward, kept_in_a_block, without_checkpointing
from groundup.account.params import parameters
from groundup.config import ModelConfig, OptimConfig, TrainConfig

# Shapes: B batch, S sequence, D d_model, F d_ff, V vocabulary, N positions, P parameters.

_FLOAT32 = 4
# What groundup.optim and groundup.nn take at a time. They import torch, and this package does not; a test compares.
MUON_BATCH_ELEMENTS = {"cpu": 2**21, "cuda": 2**24}
LOSS_ELEMENTS = {"cpu": 2**22, "cuda": 2**28}
ROWS_ELEMENTS = {"cpu": 2**18, "cuda": 2**27}
GATE_ELEMENTS = 2**20 // 12
CUBLAS_WORKSPACE = 2 * 2**25
"""Bytes that torch gives cuBLAS to work in: 32 MiB on Hopper (8 MiB on cards before it) for each of the two threads
that multiply, that of the forward and that of the backward pass. max_memory_allocated counts them."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one process that trains. Left out: torch itself, and what the allocator cannot fill."""

    weights: int
    gradients: int
    optimizer_state: int
    kept: list[Kept]
    """Tensors that a forward pass keeps."""
    working: int
    """Results on their way, at the moment of the peak."""
    workspace: int
    """cuBLAS's, on a GPU; all the time."""
    checkpoint_copy: int
    """In the host's memory while a checkpoint is written in the background; on a CPU that is the same memory."""
    needed: int
    """Of the device: the peak, and on a CPU the copy of a checkpoint."""
    peak: int
    """The most that is held at once, the copy of a checkpoint left out. Less than the sum of the parts: gradients
    come while activations go."""
    moment: str
    """When that is: "loss", "backward" or "update"."""

    @property
    def activations(self) -> int:
        """All that a forward pass keeps."""
        return sum(tensor.size for tensor in self.kept)

    @property
    def fixed(self) -> int:
        """Weights, gradients and optimizer state, whatever the batch."""
        return self.weights + self.gradients + self.optimizer_state


def optimizer_state_bytes(model: ModelConfig, optim: OptimConfig) -> int:
    """Float32 state: 8P for AdamW's two moments; Muon keeps one for the matrices between embedding and head."""
    count = parameters(model)
    hidden = count.num_layers * (count.block - count.block_norms)
    return _FLOAT32 * (2 * count.total - (hidden if optim.optimizer == "muon" else 0))


def step_memory(
    model: ModelConfig,
    optim: OptimConfig,
    train: TrainConfig,
    *,
    batch_size: int,
    passes: int = 1,
    device: str = "cpu",
) -> StepMemory:
    """What one training step takes, after the first, which makes the optimizer's state.

    Args:
        batch_size: sequences of one forward pass.
        passes: forward and backward passes of a step, over which gradients add up.
        device: "cpu" or "cuda".
    """
    count = parameters(model)
    weights = _FLOAT32 * count.total
    state = optimizer_state_bytes(model, optim)
    kept = kept_for_backward(model, train, batch_size=batch_size, device=device)
    # Those of the passes before, to which a pass adds.
    gradients = weights if passes > 1 else 0
    moments = {
        "loss": _at_the_loss(model, train, kept, gradients, batch_size, device),
        "backward": _in_the_backward(model, train, kept, gradients, batch_size, device),
        "update": (weights, _update(model, optim, device)),
    }
    moment = max(moments, key=lambda name: sum(moments[name]))
    held, working = moments[moment]
    workspace = CUBLAS_WORKSPACE if device == "cuda" else 0
    peak = weights + state + held + working + workspace
    copy = weights + state if train.background_checkpoints else 0
    return StepMemory(
        weights=weights,
        gradients=weights,
        optimizer_state=state,
        kept=kept,
        working=working,
        workspace=workspace,
        checkpoint_copy=copy,
        needed=peak + (0 if device == "cuda" else copy),
        peak=peak,
        moment=moment,
    )


def _at_the_loss(
    model: ModelConfig, train: TrainConfig, kept: list[Kept], gradients: int, batch_size: int, device: str
) -> tuple[int, int]:
    """All that is kept, and what the loss works with."""
    width = _width(train)
    held = gradients + sum(tensor.size for tensor in kept)
    positions, vocab_size = batch_size * model.context_length, model.vocab_size
    some_rows = _FLOAT32 * max(vocab_size, min(positions * vocab_size, ROWS_ELEMENTS.get(device, 2**27)))
    if train.kernels == "plain":
        return held, some_rows
    chunk = positions_at_once(positions, vocab_size, device)
    logits, weight = width * chunk * vocab_size, vocab_size * model.d_model
    if width == _FLOAT32:  # a chunk's logits become everything else in place
        return held, logits
    # The weight in bfloat16, and a chunk's gradient of it, which a CPU widens before it adds it.
    gradient = width * weight + (_FLOAT32 * weight if device == "cpu" else 0)
    return held, logits + some_rows + width * weight + (gradient if chunk < positions else width * weight)


def _in_the_backward(
    model: ModelConfig, train: TrainConfig, kept: list[Kept], gradients: int, batch_size: int, device: str
) -> tuple[int, int]:
    """The moment at which activations and gradients together are the most, and what is on its way then."""
    count = parameters(model)
    layers = model.num_layers
    blocks = [tensor for tensor in kept if tensor.times == layers and tensor.saved]
    per_block = sum(tensor.size for tensor in blocks) // layers
    again = kept_in_a_block(model, train, batch_size=batch_size, device=device)
    block_gradient, head_gradient = _FLOAT32 * count.block, _FLOAT32 * (count.head or count.embedding)
    working = max(_at_the_gate(model, train, batch_size, device), _at_attention(model, train, batch_size, device))
    if train.activation_checkpointing:
        # The block's input is the first of what is made again.
        copied = train.kernels == "plain" and _width(train) == 2 and model.norm == "pre"
        working += again - (0 if copied else _stream(model, train, batch_size))
    if gradients:
        return gradients + layers * per_block, working
    # Gradients come where activations go: the most is at the last block, or at the first.
    last, first = layers * per_block, per_block + (layers - 1) * block_gradient
    return head_gradient + max(last, first), working


def _at_the_gate(model: ModelConfig, train: TrainConfig, batch_size: int, device: str) -> int:
    """The feed-forward network's gradient, halfway: that of its inner values by both factors, and W2's gradient; what
    W2 took in is gone already.
    """
    stream, inner = _stream(model, train, batch_size), _inner(model, train, batch_size)
    rows_at_once = 0
    if train.kernels == "fast" and model.ffn == "swiglu":
        rows = batch_size * model.context_length  # on a GPU; on a CPU some, that stay in its cache
        if device == "cpu":
            rows = min(rows, max(16, GATE_ELEMENTS // model.ffn_dim))
        # sigmoid(a), SiLU(a), their sum, and the slope
        rows_at_once = 4 * _width(train) * rows * model.ffn_dim
    w2_gradient = _FLOAT32 * model.d_model * model.ffn_dim
    # A norm after the sublayer has had its gradient by then, and lets go of what it kept.
    through = 0 if model.norm == "post" else stream
    return through + 2 * inner + w2_gradient + rows_at_once


def _at_attention(model: ModelConfig, train: TrainConfig, batch_size: int, device: str) -> int:
    """The gradient of the softmax where all scores exist: five of their size, while of the block only what comes before
    is kept still, less the attention weights.
    """
    if train.attention == "flash":
        return 0
    kept = kept_for_backward(model, without_checkpointing(train), batch_size=batch_size, device=device)
    sizes = {tensor.name: tensor.size // tensor.times for tensor in kept if tensor.component == "attention"}
    block = [tensor for tensor in kept if tensor.times == model.num_layers]
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
    """What the optimizer works with beside its state."""
    if optim.optimizer != "muon":
        return 0
    d, f, kv_width = model.d_model, model.ffn_dim, model.kv_heads * model.head_dim
    limit = MUON_BATCH_ELEMENTS.get(device, 2**24)
    square_of_width = 2 * model.num_layers * (2 if kv_width == d else 1)
    shapes = [(d, d, square_of_width), (d, f, (2 if model.ffn == "swiglu" else 1) * model.num_layers)]
    shapes += [(f, d, model.num_layers)] + ([(kv_width, d, 2 * model.num_layers)] if kv_width < d else [])
    most = 0
    for rows, columns, matrices in shapes:
        batch = min(matrices, max(1, limit // (rows * columns)))
        # The direction, its normalized copy and the next one; the product with itself and its polynomial.
        most = max(most, batch * (3 * rows * columns + 2 * min(rows, columns) ** 2))
    # Where the products are quicker in bfloat16 (groundup.optim.muon.matrix_dtype).
    return (2 if device == "cuda" else _FLOAT32) * most


def positions_at_once(positions: int, vocab_size: int, device: str = "cpu") -> int:
    """How many positions' logits exist at a time in the loss that never holds all (groundup.nn.loss)."""
    chunks = -(-positions // max(256, LOSS_ELEMENTS.get(device, 2**28) // vocab_size))
    # A loss in so many chunks that the search matters here is one that nobody waits for.
    even = next((n for n in range(chunks, min(2 * chunks, chunks + 10**4)) if positions % n == 0), chunks)
    return -(-positions // even)
