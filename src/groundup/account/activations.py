"""What a forward pass keeps for the backward pass, tensor by tensor.

Each line of the lists below is one piece of memory that autograd holds: found by following the formulas of
:mod:`groundup.nn`, and held to them by tests that count what autograd has saved.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from groundup.config import ModelConfig, TrainConfig

# Shapes: B batch, S sequence, D d_model, F d_ff, H query heads, J width of all keys, V vocabulary.


@dataclass(frozen=True)
class Kept:
    """One tensor that is kept, as often as there are blocks, or once."""

    component: str
    """"norms", "attention", "feed-forward", "weights in bfloat16", "loss" or "input"."""
    name: str
    shape: str
    """A sum of products of sizes by their letters: ``B S D + 2 B S J``."""
    width: int
    """Bytes of an element."""
    elements: int
    times: int
    saved: bool = True
    """Autograd holds it; otherwise an operation of our own does, or it is only there at the turning point."""

    @property
    def size(self) -> int:
        """Bytes, of all of them."""
        return self.elements * self.width * self.times


_Line = tuple[str, str, str, int]  # component, name, shape, width


def kept_for_backward(model: ModelConfig, train: TrainConfig, *, batch_size: int, device: str = "cpu") -> list[Kept]:
    """Every tensor that one forward pass keeps, weights aside.

    A compiled model is counted uncompiled: a compiler may keep less.

    Args:
        train: its precision, attention, kernels and activation_checkpointing say how the pass is made.
        batch_size: sequences of one pass.
        device: "cpu" or "cuda"; their fused attentions keep different things.
    """
    width = 2 if train.precision == "bf16" else 4
    sizes = {
        "B": batch_size, "S": model.context_length, "D": model.d_model, "F": model.ffn_dim, "H": model.num_heads,
        "J": model.kv_heads * model.head_dim, "V": model.vocab_size,
    }  # fmt: skip

    def kept(lines: list[_Line], times: int, *, saved: bool = True) -> list[Kept]:
        return [Kept(*line, elements=count(line[2], sizes), times=times, saved=saved) for line in lines]

    if train.activation_checkpointing:
        blocks = kept([("input", "input of the block", "B S D", width)], model.num_layers)
    else:
        blocks = kept(_block(model, train, width, device, batch_size), model.num_layers)
    once: list[_Line] = [("input", "tokens and targets", "2 B S", 8)]
    if model.norm == "pre":
        once += _norm(train, width)
    once += [("loss", "input of the head", "B S D", width)]
    if train.kernels == "fast":
        beside: list[_Line] = [
            ("loss", "gradient by the input of the head", "B S D", width),
            ("loss", "gradient by the head's weight", "V D", 4),
        ]
    else:
        once += [("loss", "logits", "B S V", width)]
        beside = [("loss", "gradient by the logits", "B S V", width)]
        if width == 2:
            once += [("weights in bfloat16", "head", "V D", width)]
    return blocks + kept(once, 1) + kept(beside, 1, saved=False)


def kept_in_a_block(model: ModelConfig, train: TrainConfig, *, batch_size: int, device: str = "cpu") -> int:
    """Bytes that one block keeps while its gradient is made; with activation checkpointing they are made again."""
    whole = kept_for_backward(model, without_checkpointing(train), batch_size=batch_size, device=device)
    return sum(tensor.size // tensor.times for tensor in whole if tensor.times == model.num_layers and tensor.saved)


def count(shape: str, sizes: dict[str, int]) -> int:
    """Elements of a shape written in letters and numbers: a sum of products."""
    total = 0
    for product in shape.split("+"):
        elements = 1
        for factor in product.split():
            elements *= sizes[factor] if factor.isalpha() else int(factor)
        total += elements
    return total


def _block(model: ModelConfig, train: TrainConfig, width: int, device: str, batch_size: int) -> list[_Line]:
    pre, plain = model.norm == "pre", train.kernels == "plain"
    norms = _norm(train, width) if model.norm != "none" else []
    attention: list[_Line] = [("attention", "input" if pre else "input of the block", "B S D", width)]
    attention += _heads_plain(model) if plain else []
    attention += _attention(model, train, width, device, batch_size)
    ffn: list[_Line] = [("feed-forward", "input", "B S D", width)]
    if model.ffn == "silu":
        ffn += [("feed-forward", name, "B S F", width) for name in ("W1 x", "sigmoid(W1 x)", "SiLU(W1 x)")]
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
        cast = [("weights in bfloat16", "attention", "2 D D + 2 D J", width)]
        cast += [("weights in bfloat16", "feed-forward", "3 D F" if model.ffn == "swiglu" else "2 D F", width)]
    return norms + attention + norms + ffn + cast


def _norm(train: TrainConfig, width: int) -> list[_Line]:
    root: _Line = ("norms", "1 / root mean square", "B S", 4)
    if train.kernels == "fast":
        return [("norms", "input", "B S D", width), root]
    return [("norms", "input in float32", "B S D", 4), root, ("norms", "input / root mean square", "B S D", 4)]


def _heads_plain(model: ModelConfig) -> list[_Line]:
    # Cosines and sines as complex numbers, once for queries and once for keys.
    head_dim = model.head_dim
    return [("attention", "rotary angles", f"2 S {head_dim}", 4)] if model.position == "rope" else []


def _attention(model: ModelConfig, train: TrainConfig, width: int, device: str, batch_size: int) -> list[_Line]:
    shared = model.kv_heads < model.num_heads
    if train.attention == "plain":
        # The values of a single sequence or head need no copy, so they hold the whole product that they are part of.
        single = 1 in (batch_size, model.num_heads) and not shared
        whole_product = single and train.kernels == "fast" and model.position == "rope"
        return [
            *[("attention", name, "B S D", width) for name in ("queries", "keys")],
            ("attention", "values", "B S D + 2 B S J" if whole_product else "B S D", width),
            ("attention", "causal mask, twice", "2 S S", 1),
            ("attention", "scores", "B H S S", width),
            ("attention", "their maxima", "B H S", width),
            ("attention", "their exponentials", "B H S S", width),
            ("attention", "sums of these", "B H S", width),
            ("attention", "attention weights", "B H S S", width),
            ("attention", "weighted values", "B S D", width),
        ]
    if train.kernels == "plain":
        lines: list[_Line] = [("attention", name, "B S D", width) for name in ("queries", "keys", "values")]
    else:
        product, rotated = "B S D + 2 B S J", "B S D + B S J"
        rope = model.position == "rope"
        repeated: list[_Line] = [("attention", f"{name}, repeated", "B S D", width) for name in ("keys", "values")]
        first = ("attention", "queries and keys, rotated", rotated, width)
        whole = ("attention", "queries, keys and values", product, width)
        lines = ([first] if rope else [whole]) + (repeated if shared else [whole] if rope else [])
    lines += [("attention", "weighted values", "B S D", width)]
    if train.kernels == "plain" or device != "cpu" or width == 2:  # a fused kernel of torch's
        lines += [("attention", "logarithms of the sums", "B H S", 4)]
        # The result lies in memory as the queries do, and rotated ones lie head after head; the product after it wants
        # position after position. A GPU's kernel for float32 writes it so at once.
        as_the_queries = device == "cpu" or width == 2
        if as_the_queries and train.kernels == "plain" and model.position == "rope":
            lines += [("attention", "weighted values, head after head", "B S D", width)]
    return lines


def without_checkpointing(train: TrainConfig) -> TrainConfig:
    """The same, with everything kept."""
    return dataclasses.replace(train, activation_checkpointing=False)
