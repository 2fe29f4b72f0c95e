"""Weights of a smaller type for generation: bfloat16, or int8 with a scale for each row."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from groundup.nn import Linear, TransformerLM

Weights = Literal["float32", "bfloat16", "int8"]


class QuantizedLinear(nn.Module):
    """``y = W x + b`` with W in bfloat16, or in int8 with one scale a row; x and the sums stay in x's dtype.

    int8: scale = max |row| / 127, so that the error of a weight is at most scale / 2 (weight-only, symmetric).

    Shapes: x ``(..., in_features)`` -> ``(..., out_features)``; weight ``(out_features, in_features)``, scales
    ``(out_features,)``.
    """

    weight: Tensor
    scales: Tensor | None
    bias: Tensor | None

    def __init__(self, plain: Linear, weights: Weights):
        super().__init__()
        weight = plain.weight.detach()
        scales = None
        if weights == "int8":
            scales = weight.float().abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
            weight = (weight / scales[:, None]).round_().to(torch.int8)
        else:
            weight = weight.to(torch.bfloat16)
        self.register_buffer("weight", weight)
        self.register_buffer("scales", scales)
        bias = getattr(plain, "bias", None)
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.to(x.dtype).T
        if self.scales is not None:
            y = y * self.scales.to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def dequantized(self) -> Tensor:
        """The matrix that the rounded weights stand for, in float32."""
        weight = self.weight.float()
        return weight if self.scales is None else weight * self.scales[:, None]

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]} -> {self.weight.shape[0]}, {self.weight.dtype}".replace("torch.", "")


def quantize(model: TransformerLM, weights: Weights) -> TransformerLM:
    """Replace the linear layers of a plain model, in place; embeddings and norms keep their type.

    A tied output matrix is stored once more. The model can no longer be trained.
    """
    if weights != "float32":
        _replace(model, weights)
    return model


def _replace(module: nn.Module, weights: Weights) -> None:
    for name, child in module.named_children():
        if isinstance(child, Linear):
            setattr(module, name, QuantizedLinear(child, weights))
        else:
            _replace(child, weights)
