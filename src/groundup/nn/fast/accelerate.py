"""Replace the layers of a model by faster ones with the same parameters."""

from __future__ import annotations

from typing import Literal, TypeVar

from torch import nn

from groundup.nn.attention import MultiHeadSelfAttention
from groundup.nn.fast.attention import FlashAttention, FusedQKVAttention, FusedQKVFlashAttention
from groundup.nn.fast.layers import FastRMSNorm, FastSwiGLU
from groundup.nn.layers import RMSNorm, SwiGLU

Module = TypeVar("Module", bound=nn.Module)

_FAST_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    RMSNorm: FastRMSNorm,
    SwiGLU: FastSwiGLU,
}
_ATTENTION: dict[tuple[str, str], type[nn.Module]] = {
    ("plain", "flash"): FlashAttention,
    ("fast", "plain"): FusedQKVAttention,
    ("fast", "flash"): FusedQKVFlashAttention,
}


def accelerate(
    model: Module,
    *,
    kernels: Literal["plain", "fast"] = "fast",
    attention: Literal["plain", "flash"] = "flash",
) -> Module:
    """Replace the plain layers in a model by faster ones, in place, and return the model.

    The replacements hold the very same Parameters under the same state-dict names, so checkpoints and optimizers are
    not affected; results agree to rounding. Call it before the model is wrapped (FSDP, DDP, torch.compile). A model
    that is one of the layers itself is not changed; its replacement is returned.

    Args:
        kernels: "fast" for layers with fused matmuls and hand-written gradients.
        attention: "flash" for a fused attention kernel, which never holds all scores.
    """
    replacements = dict(_FAST_LAYERS) if kernels == "fast" else {}
    if (kernels, attention) in _ATTENTION:
        replacements[MultiHeadSelfAttention] = _ATTENTION[kernels, attention]
    return _replaced(model, replacements)


def _replaced(module: Module, replacements: dict[type[nn.Module], type[nn.Module]]) -> Module:
    for name, child in module.named_children():
        module.register_module(name, _replaced(child, replacements))
    if type(module) not in replacements:
        return module
    fast: Module = replacements[type(module)](module)  # type: ignore[assignment]  # a subclass of the key
    return fast.train(module.training)
