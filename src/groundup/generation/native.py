"""The decoder step on a CPU in C++ (``native/decoder``): one token of each row through the whole model.

It computes what the modules compute, in float32, with weights in float32, bfloat16 or int8. A model with an option that
it does not know keeps to its modules.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import torch
from torch import Tensor

from groundup.config import ModelConfig
from groundup.generation.cache import BatchedCache
from groundup.generation.weights import QuantizedLinear
from groundup.nn import RotaryPositionalEmbedding, TransformerLM

_KNOWN = {
    "vocab_size", "context_length", "d_model", "num_layers", "num_heads", "head_size", "num_kv_heads", "d_ff",
    "rope_theta", "rope_scaling", "rope_factor", "rope_original_context", "rope_low_frequency", "rope_high_frequency",
    "norm", "position", "ffn", "tie_embeddings", "embedding_scale", "norm_eps", "qk_norm", "qkv_bias", "output_init",
}  # fmt: skip
"""Options that the C++ decoder computes; of any other one only the default."""
_FEED_FORWARD = ("swiglu", "silu")
_NORMS = {"pre": 0, "post": 1, "none": 2}


def suits(model: TransformerLM) -> bool:
    """Whether the C++ decoder computes this model: on a CPU, in float32, and only with options it knows."""
    weight = model.token_embeddings.weight
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and model.compute_dtype is None
        and knows(model.config)
        and _module() is not None
    )


def knows(config: ModelConfig) -> bool:
    """Whether all options that differ from their defaults are known."""
    fields = (field for field in dataclasses.fields(config) if field.name not in _KNOWN)
    return config.ffn in _FEED_FORWARD and all(getattr(config, field.name) == field.default for field in fields)


class NativeDecoder:
    """A model's weights laid out for the C++ step: those of q, k and v, and of w1 and w3, become views of one matrix.

    Args:
        threads: of each step.
    """

    def __init__(self, model: TransformerLM, *, threads: int = 1):
        module: Any = _module()
        config = model.config
        self._alive: list[Tensor] = []  # C++ holds pointers
        layers = []
        for block in model.layers:
            attention: Any = block.attn
            feed_forward: Any = block.ffn
            up = [feed_forward.w1, feed_forward.w3] if config.ffn == "swiglu" else [feed_forward.w1]
            layers.append(
                module.Layer(
                    self._matrix([attention.q_proj, attention.k_proj, attention.v_proj]),
                    self._matrix([attention.output_proj]),
                    self._matrix(up),
                    self._matrix([feed_forward.w2]),
                    self._gain(getattr(block, "ln1", None)),
                    self._gain(getattr(block, "ln2", None)),
                    self._gain(attention.q_norm),
                    self._gain(attention.k_norm),
                )
            )
        sizes = [config.vocab_size, config.d_model, config.num_heads, config.kv_heads, config.head_dim, config.ffn_dim]
        table = module.Matrix(self._kept(model.token_embeddings.weight.detach()), None, None)
        self._decoder = module.make_decoder(
            sizes, _NORMS[config.norm], config.ffn == "swiglu", config.position == "rope", config.norm_eps,
            model.embedding_scale, layers, table, self._matrix([model.lm_head]), self._gain(model.ln_final), threads,
        )  # fmt: skip
        self._rope = next((part for part in model.modules() if isinstance(part, RotaryPositionalEmbedding)), None)
        self._tables: Tensor | None = None
        self._keys: Tensor | None = None

    def step(
        self, ids_T: Tensor, positions_T: Tensor, rows_T: Tensor, cache: BatchedCache, wanted: Tensor | None = None
    ) -> Tensor:
        """Logits after T tokens: one more of many rows of the cache, or several of one, in their order.

        Args:
            ids_T, positions_T, rows_T: int64, on the CPU.
            wanted: numbers of the tokens after which logits are wanted; None: all.

        Returns:
            ``(T, V)``, or a row for each number in ``wanted``.
        """
        if self._rope is not None and self._rope.cos is not self._tables:
            self._decoder.set_rotations(self._rope.cos, self._rope.sin)
            self._tables = self._rope.cos
        if cache.layers[0].keys is not self._keys:
            self._decoder.set_cache([layer.keys for layer in cache.layers], [layer.values for layer in cache.layers])
            self._keys = cache.layers[0].keys
        if wanted is None:
            wanted = torch.arange(len(ids_T))
        logits_TV = torch.empty(len(wanted), self._head_rows)
        # As arrays of numpy: nanobind reads a tensor by Python code of torch, and drops a Ctrl-C that arrives in it.
        self._decoder.step(*(tensor.numpy() for tensor in (ids_T, positions_T, rows_T, wanted, logits_TV)))
        return logits_TV

    def _matrix(self, linears: list[Any]) -> Any:
        """One matrix of several layers, one below the other."""
        self._head_rows = sum(len(linear.weight) for linear in linears)
        scales = bias = None
        if isinstance(linears[0], QuantizedLinear):
            weight = self._joined([linear.weight for linear in linears])
            if linears[0].scales is not None:
                scales = self._joined([linear.scales for linear in linears])
        else:
            weight = self._joined([linear.weight for linear in linears])
        if linears[0].bias is not None:
            bias = self._joined([linear.bias.detach() for linear in linears if linear.bias is not None])
        if weight.dtype == torch.bfloat16:
            weight = weight.view(torch.int16)
        return _module().Matrix(weight, scales, bias)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        if len(parts) == 1:
            return self._kept(parts[0].detach())
        if parts[0].ndim == 1:
            return self._kept(torch.cat(parts))
        from groundup.nn.fast.layers import as_one_matrix, pack

        pack(parts)  # so that they are in memory once
        packed = as_one_matrix(parts)
        assert packed is not None
        return self._kept(packed)

    def _kept(self, tensor: Tensor) -> Tensor:
        self._alive.append(tensor.contiguous())
        return self._alive[-1]

    def _gain(self, norm: Any) -> Tensor | None:
        return None if norm is None else self._kept(norm.weight.detach().float())


def _module() -> Any:
    """The C++ module; None where it was not built."""
    try:
        return importlib.import_module("groundup.generation._decoder")
    except ImportError:
        return None
