"""Weights and matmuls of a model, read from its modules on torch's meta device.

The modules that are walked are those of a small model with the same options, each of whose sizes is a different prime
number. Every dimension of a weight or matmul is a product of sizes, so its prime factors name them. One walk (30 ms)
therefore serves every model with these options, however large, and a new layer is counted without a formula for it.
Where layers differ, the small model has five, so that those of each kind can be told apart.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from groundup.config import ModelConfig

# The size of an attention head is even where RoPE rotates pairs of features.
_PROBE = {
    "batch_size": 101, "tokens": 103, "vocab_size": 107, "d_ff": 109, "kv_heads": 113, "queries_per_key": 127,
    "head_dim": 2 * 131, "d_model": 137, "num_layers": 5,
}  # fmt: skip
_LARGEST_CONSTANT = 100
_TABLES = "value_embeddings."
_LAYER = re.compile(r"(?:layers|value_embeddings)\.(\d+)\.")
_MATMULS = {"aten.mm.default", "aten.bmm.default"}

Dimension = tuple[str | int, ...]
"""A product of sizes, by name, and of at most one constant."""


Layers = Literal["", "all", "with values"]
"""Which layers have a weight or matmul: none, all, or those with value embeddings, of which each has a table too."""


@dataclass(frozen=True)
class Weight:
    """A parameter of the model; one of a layer stands for those of all layers that have it."""

    name: str
    shape: tuple[Dimension, ...]
    layers: Layers
    in_block: bool


@dataclass(frozen=True)
class TracedMatmul:
    """A matmul ``(m, n) x (n, p)`` of the forward pass; one of a layer stands for those of all layers that have it."""

    module: str
    m: Dimension
    n: Dimension
    p: Dimension
    batch: Dimension
    layers: Layers
    has_weight: bool
    """One factor is a parameter; otherwise both are activations."""


Found = TypeVar("Found", Weight, TracedMatmul)


@dataclass(frozen=True)
class Modules:
    """What a walk over the modules finds, in the order of the modules and of the forward pass."""

    weights: tuple[Weight, ...]
    matmuls: tuple[TracedMatmul, ...]


def modules(model: ModelConfig) -> Modules:
    """Return the weights and matmuls of a model with these options, with dimensions by name."""
    kv_heads, num_heads = _PROBE["kv_heads"], _PROBE["kv_heads"] * _PROBE["queries_per_key"]
    layers_differ = model.value_embeddings != "none" or model.residual_scalars
    probe = dataclasses.replace(
        model, vocab_size=_PROBE["vocab_size"], context_length=_PROBE["tokens"], d_ff=_PROBE["d_ff"],
        num_layers=_PROBE["num_layers"] if layers_differ else 1,
        d_model=_PROBE["d_model"], num_heads=num_heads, num_kv_heads=kv_heads, head_size=_PROBE["head_dim"],
    )  # fmt: skip
    return _walk(probe)


def weight_shapes(model: ModelConfig) -> list[tuple[Weight, tuple[int, ...], int]]:
    """Return each weight of a model with its shape in numbers, and how many of the model's weights it stands for."""
    sizes, times = _sizes_of(model), _times(model)
    return [
        (weight, tuple(_value(size, sizes) for size in weight.shape), times[weight.layers])
        for weight in modules(model).weights
    ]


def matmul_shapes(
    model: ModelConfig, *, batch_size: int, tokens: int
) -> list[tuple[TracedMatmul, tuple[int, int, int, int]]]:
    """Return each matmul of a forward pass with its batch, m, n and p in numbers; the batch has all layers'."""
    sizes, times = _sizes_of(model, batch_size=batch_size, tokens=tokens), _times(model)
    return [
        (
            matmul,
            (
                _value(matmul.batch, sizes) * times[matmul.layers],
                _value(matmul.m, sizes),
                _value(matmul.n, sizes),
                _value(matmul.p, sizes),
            ),
        )
        for matmul in modules(model).matmuls
    ]


def _times(model: ModelConfig) -> dict[Layers, int]:
    return {"": 1, "all": model.num_layers, "with values": len(model.value_layers)}


def _sizes_of(model: ModelConfig, *, batch_size: int = 1, tokens: int = 1) -> dict[str, int]:
    """The sizes that dimensions are products of."""
    kv_heads, head_dim = model.kv_heads, model.head_dim
    return {
        "batch_size": batch_size, "tokens": tokens, "vocab_size": model.vocab_size, "d_ff": model.ffn_dim,
        "kv_heads": kv_heads, "queries_per_key": model.num_heads // kv_heads, "head_dim": head_dim,
        "d_model": model.d_model, "num_layers": model.num_layers,
    }  # fmt: skip


def _value(dimension: Dimension, sizes: Mapping[str, int]) -> int:
    """A dimension in numbers."""
    return math.prod(factor if isinstance(factor, int) else sizes[factor] for factor in dimension)


def dimension_of(number: int) -> Dimension:
    """The sizes of the walked model whose product a dimension is.

    Raises:
        ValueError: it is not such a product.
    """
    factors: list[str | int] = []
    rest = number
    for name, size in _PROBE.items():
        while rest % size == 0:
            rest //= size
            factors.append(name)
    if rest > _LARGEST_CONSTANT:
        raise ValueError(
            f"a dimension of {number} is not a product of the sizes {', '.join(_PROBE)} and a constant up to "
            f"{_LARGEST_CONSTANT}; add the size that is missing to groundup.account.modules"
        )
    return (*factors, rest) if rest > 1 else tuple(factors)


@functools.lru_cache(maxsize=64)
def _walk(probe: ModelConfig) -> Modules:
    import torch

    from groundup.nn import TransformerLM

    lm = TransformerLM(probe, device="meta")
    weights = [
        (name, Weight(_of_layer(name), tuple(map(dimension_of, parameter.shape)), "", name.startswith("layers.")))
        for name, parameter in lm.named_parameters()
    ]
    token_ids = torch.empty(_PROBE["batch_size"], _PROBE["tokens"], dtype=torch.int64, device="meta")
    return Modules(tuple(_by_layers(weights, probe)), tuple(_by_layers(_trace(lm, token_ids), probe)))


def _by_layers(found: list[tuple[str, Found]], probe: ModelConfig) -> Iterator[Found]:
    """Each weight or matmul once, with the layers that have it, in the order of the last layer.

    Args:
        found: them with the full name of their parameter or module.
    """
    layers_with: dict[Found, list[int]] = {}
    for name, one in found:
        if layer := _LAYER.match(name):
            layers_with.setdefault(one, []).append(int(layer[1]))
    for name, one in found:
        layer = _LAYER.match(name)
        if layer is None:
            yield one
        elif int(layer[1]) == probe.num_layers - 1:  # which has all that any layer has
            layers = sorted(set(layers_with[one]))
            kinds: dict[Layers, Sequence[int]] = {"all": range(probe.num_layers), "with values": probe.value_layers}
            kind = next((kind for kind, indices in kinds.items() if layers == list(indices)), None)
            if kind is None:
                raise ValueError(f"{name} is in the layers {layers} alone; add this kind to groundup.account.modules")
            yield dataclasses.replace(one, layers=kind)


def _trace(lm: Any, token_ids: Any) -> list[tuple[str, TracedMatmul]]:
    """Run a forward pass and note every matmul with the module that makes it."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.module_tracker import ModuleTracker

    found: list[tuple[str, TracedMatmul]] = []
    tracker = ModuleTracker()

    class Note(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if str(function) in _MATMULS:
                left, right = args
                *batch, m, n = map(dimension_of, left.shape)
                p = dimension_of(right.shape[-1])
                # "TransformerLM.layers.0.attn.q_proj": of the modules that are running, the innermost.
                module = max(tracker.parents, key=len).partition(".")[2]
                matmul = TracedMatmul(_of_layer(module), m, n, p, batch[0] if batch else (), "", not batch)
                found.append((module, matmul))
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), tracker, Note():
        lm(token_ids)
    return found


def _of_layer(name: str) -> str:
    """The name without the layer: of a module of a block its name in the block."""
    layer = _LAYER.match(name)
    return name if layer is None else f"{'' if name.startswith('layers.') else _TABLES}{name[layer.end() :]}"
