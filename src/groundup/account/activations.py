"""Saved activations: the tensors that a forward pass saves for the backward pass.

Each line of the lists below is one allocation that autograd holds. The lists follow the formulas of
:mod:`groundup.nn`; tests compare them with what autograd saves.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass

from groundup.config import ModelConfig, TrainConfig
from groundup.config.options import GATE_CHANNELS

# Shapes: B batch, S sequence, D d_model, F d_ff, H query heads, Q width of all queries (D by
# default), J width of all keys, V vocabulary.


@dataclass(frozen=True)
class Saved:
    """A saved tensor: one per block, or one per model."""

    component: str
    """"norms", "attention", "feed-forward", "weights in bfloat16", "loss" or "input"."""
    name: str
    shape: str
    """A sum of products of sizes, by letter: ``B S D + 2 B S J``."""
    width: int
    """Bytes per element."""
    times: int
    size: int
    """Bytes of all of them."""
    in_block: bool
    """Whether it is one of a block's; if so, ``times`` is the number of blocks that have it."""
    by_autograd: bool = True
    """Whether autograd holds it; otherwise a custom function does, or it exists only between forward and backward."""


_Line = tuple[str, str, str, int]  # component, name, shape, width


def saved_activations(model: ModelConfig, train: TrainConfig, *, batch_size: int, device: str = "cpu") -> list[Saved]:
    """Every tensor that one forward pass saves, except weights.

    A compiled model is counted uncompiled: the compiler may save less.

    Args:
        train: its precision, attention, kernels and activation_checkpointing.
        batch_size: sequences of the micro-batch.
        device: "cpu" or "cuda"; their fused attention kernels save different tensors.
    """
    width = 2 if train.precision == "bf16" else 4
    head_dim = model.head_dim
    sizes = {
        "B": batch_size, "S": model.context_length, "D": model.d_model, "F": model.ffn_dim, "H": model.num_heads,
        "J": model.kv_heads * head_dim, "V": model.vocab_size, "Q": model.num_heads * head_dim,
    }  # fmt: skip

    layers, with_values = model.num_layers, len(model.value_layers)
    queries = "D" if sizes["Q"] == sizes["D"] else "Q"

    def saved(lines: list[_Line], times: int, *, by_autograd: bool = True, in_block: bool = False) -> list[Saved]:
        return [
            Saved(
                component,
                name,
                shape.replace("Q", queries),
                width,
                times,
                count(shape, sizes) * width * times,
                in_block,
                by_autograd,
            )
            for component, name, shape, width in lines
        ]

    if train.activation_checkpointing:
        blocks = saved([("input", "input of the block", "B S D", width)], layers, in_block=True)
        if with_values:  # the function that recomputes the block holds them
            blocks += saved([_value_rows(width)], with_values, in_block=True, by_autograd=False)
    else:
        blocks = []
        for (_, line), times in _lines_by_layers(model, train, width, device, batch_size).items():
            blocks += saved([line], times, in_block=True)
    once: list[_Line] = [("input", "tokens and targets", "2 B S", 8)]
    if model.embedding_norm:
        once += _norm(model, train, 4)  # embeddings are cast to the dtype of the matmuls after it
    if model.norm == "pre":
        once += _norm(model, train, width)
    once += [("loss", "input of the head", "B S D", width)]
    if train.kernels == "fast":
        beside: list[_Line] = [
            ("loss", "gradient by the input of the head", "B S D", width),
            ("loss", "gradient by the head's weight", "V D", 4),
        ]
    else:
        once += [("loss", "logits", "B S V", width)]
        if model.logit_softcap:
            once += [("loss", "their bounded tanh", "B S V", width)]
        beside = [("loss", "gradient by the logits", "B S V", width)]
        if width == 2:
            once += [("weights in bfloat16", "head", "V D", width)]
    return blocks + saved(once, 1) + saved(beside, 1, by_autograd=False)


def saved_by_a_block(model: ModelConfig, train: TrainConfig, *, batch_size: int, device: str = "cpu") -> int:
    """Bytes that one block saves for its gradient; with activation checkpointing they are recomputed."""
    whole = saved_activations(model, without_checkpointing(train), batch_size=batch_size, device=device)
    return sum(tensor.size // tensor.times for tensor in whole if tensor.in_block and tensor.by_autograd)


def count(shape: str, sizes: dict[str, int]) -> int:
    """Elements of a shape such as ``B S D + 2 B S J``: a sum of products of letters and numbers."""
    total = 0
    for product in shape.split("+"):
        elements = 1
        for factor in product.split():
            elements *= sizes[factor] if factor.isalpha() else int(factor)
        total += elements
    return total


def _lines_by_layers(
    model: ModelConfig, train: TrainConfig, width: int, device: str, batch_size: int
) -> dict[tuple[int, _Line], int]:
    """The lines of blocks, and how many blocks have each; one that a block has twice is numbered."""
    found = Counter[tuple[int, _Line]]()
    with_values = len(model.value_layers)
    for has_values, layers in ((True, with_values), (False, model.num_layers - with_values)):
        in_this = Counter[_Line]()
        for line in _block(model, train, width, device, batch_size, has_values=has_values) if layers else []:
            found[in_this[line], line] += layers
            in_this[line] += 1
    return dict(found)


def _value_rows(width: int) -> _Line:
    return ("attention", "value embeddings", "B S J", width)


def _block(
    model: ModelConfig, train: TrainConfig, width: int, device: str, batch_size: int, *, has_values: bool
) -> list[_Line]:
    pre, plain = model.norm == "pre", train.kernels == "plain"
    norms = _norm(model, train, width) if model.norm != "none" else []
    attention: list[_Line] = [("attention", "input" if pre else "input of the block", "B S D", width)]
    attention += _heads_plain(model) if plain else []
    attention += _qk_norm(model, plain, width, has_values=has_values) if model.qk_norm else []
    attention += _attention(model, train, width, device, batch_size, has_values=has_values)
    if has_values:
        gates = f"{model.kv_heads} B S"
        attention += [_value_rows(width), *[("attention", name, gates, width) for name in ("sigmoid", "value gates")]]
    first: list[_Line] = [("input", "input of the block", "B S D", width)] if model.residual_scalars else []
    ffn: list[_Line] = [("feed-forward", "input", "B S D", width)]
    if model.ffn == "silu":
        ffn += [("feed-forward", name, "B S F", width) for name in ("W1 x", "sigmoid(W1 x)", "SiLU(W1 x)")]
    elif model.ffn == "relu2":
        ffn += [("feed-forward", name, "B S F", width) for name in ("ReLU(W1 x)", "ReLU(W1 x)²")]
    elif plain:
        names = ("W1 x", "sigmoid(W1 x)", "SiLU(W1 x)", "W3 x", "SiLU(W1 x) W3 x")
        ffn += [("feed-forward", name, "B S F", width) for name in names]
    else:
        ffn += [
            ("feed-forward", "W1 x and W3 x", "2 B S F", width),
            ("feed-forward", "SiLU(W1 x) W3 x", "B S F", width),
        ]
    cast: list[_Line] = []
    if width == 2:
        cast = [("weights in bfloat16", "attention", "2 D Q + 2 D J", width)]
        if has_values:
            cast += [("weights in bfloat16", "value gate", f"{GATE_CHANNELS * model.kv_heads}", width)]
        cast += [("weights in bfloat16", "feed-forward", "3 D F" if model.ffn == "swiglu" else "2 D F", width)]
    return first + norms + attention + norms + ffn + cast


def _norm(model: ModelConfig, train: TrainConfig, width: int) -> list[_Line]:
    root: _Line = ("norms", "1 / root mean square", "B S", 4)
    if train.kernels == "fast":
        return [("norms", "input", "B S D", width), root]
    lines: list[_Line] = [("norms", "input in float32", "B S D", 4), root]
    return lines + ([("norms", "input / root mean square", "B S D", 4)] if model.norm_gains else [])


def _heads_plain(model: ModelConfig) -> list[_Line]:
    # cos/sin tables as complex numbers, one copy for queries and one for keys.
    head_dim = model.head_dim
    return [("attention", "rotary angles", f"2 S {head_dim}", 4)] if model.position == "rope" else []


def _qk_norm(model: ModelConfig, plain: bool, width: int, *, has_values: bool) -> list[_Line]:
    heads, roots = "B S Q + B S J", f"B S H + {model.kv_heads} B S"
    root: _Line = ("attention", "1 / root mean square of queries and keys", roots, 4)
    if plain:
        names = ["queries and keys in float32", "queries and keys / root mean square"]
        return [root, *[("attention", name, heads, 4) for name in names[: 2 if model.norm_gains else 1]]]
    if model.kv_heads > 1:
        lines: list[_Line] = [root, ("attention", "queries and keys before their norms", heads, width)]
    elif model.num_heads > 1:  # a single head of keys needs no copy and holds the whole QKV projection
        lines = [root, ("attention", "queries before their norm", "B S Q", width)]
        lines += [("attention", "queries, keys and values", "B S Q + 2 B S J", width)]
    else:
        lines = [root]  # the values hold the projection, unless value embeddings are added to them
        lines += [("attention", "queries, keys and values", "B S Q + 2 B S J", width)] if has_values else []
    if model.position == "rope":
        lines += [("attention", "rotary angles", f"S {model.head_dim}", 4)]
    return lines


def _attention(
    model: ModelConfig, train: TrainConfig, width: int, device: str, batch_size: int, *, has_values: bool
) -> list[_Line]:
    shared = model.kv_heads < model.num_heads
    if train.attention == "plain":
        # The values of a single sequence or head need no copy, so they hold the whole QKV projection.
        single = 1 in (batch_size, model.num_heads) and not shared
        separate = model.position == "rope" or model.qk_norm  # queries and keys are not views of the projection
        values = "B S Q"
        if single and train.kernels == "fast":
            # The sum of values and their embeddings holds no projection, but then queries and keys do.
            values = {(True, False): "B S Q + 2 B S J", (False, True): "2 B S Q"}.get((separate, has_values), values)
        return [
            *[("attention", name, "B S Q", width) for name in ("queries", "keys")],
            ("attention", "values", values, width),
            ("attention", "causal mask, twice", "2 S S", 1),
            ("attention", "scores", "B H S S", width),
            ("attention", "their maxima", "B H S", width),
            ("attention", "their exponentials", "B H S S", width),
            ("attention", "sums of these", "B H S", width),
            ("attention", "attention weights", "B H S S", width),
            ("attention", "weighted values", "B S Q", width),
        ]
    if train.kernels == "plain":
        lines: list[_Line] = [("attention", name, "B S Q", width) for name in ("queries", "keys", "values")]
    else:
        projection, rotated = "B S Q + 2 B S J", "B S Q + B S J"
        separate = model.position == "rope" or model.qk_norm  # not views of the projection
        repeated: list[_Line] = [("attention", f"{name}, repeated", "B S Q", width) for name in ("keys", "values")]
        queries_only = model.qk_norm and shared
        first = ("attention", "queries and keys, rotated", "B S Q" if queries_only else rotated, width)
        whole = ("attention", "queries, keys and values", projection, width)
        summed = ("attention", "values and their embeddings", "B S J", width) if has_values else whole
        lines = [first if separate else whole]
        lines += repeated if shared else [summed] if separate or has_values else []
    lines += [("attention", "weighted values", "B S Q", width)]
    if train.kernels == "plain" or device != "cpu" or width == 2:  # torch's fused kernel
        lines += [("attention", "logarithms of the sums", "B H S", 4)]
        # The result has the memory layout of the queries. Queries that are rotated one by one have heads outermost, and
        # the matmul that follows needs positions outermost: a copy. A GPU's float32 kernel writes that layout directly.
        as_the_queries = device == "cpu" or width == 2
        heads_outermost = model.position == "rope" if train.kernels == "plain" else model.qk_norm
        if as_the_queries and heads_outermost:
            lines += [("attention", "weighted values, head after head", "B S Q", width)]
    return lines


def without_checkpointing(train: TrainConfig) -> TrainConfig:
    """The same, without activation checkpointing."""
    return dataclasses.replace(train, activation_checkpointing=False)
