"""The formulas of the model that have no parameters: SiLU, softmax, attention."""

import math

import torch
from torch import Tensor

# Shapes: Q queries, K keys, D head size, E value size; leading dimensions are arbitrary.


def silu(x: Tensor) -> Tensor:
    """Sigmoid linear unit, ``x · sigmoid(x)``, elementwise (Elfwing et al. 2017)."""
    return x * torch.sigmoid(x)


def softmax(x: Tensor, dim: int) -> Tensor:
    """``exp(x) / sum(exp(x))`` along ``dim``.

    The maximum is subtracted first: the result is the same, and ``exp`` cannot overflow.
    """
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))
    return exponentials / exponentials.sum(dim, keepdim=True)


def scaled_dot_product_attention(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None = None) -> Tensor:
    """``softmax(Q Kᵀ / sqrt(D)) V`` (Vaswani et al. 2017, eq. 1).

    Args:
        Q, K, V: ``(..., Q, D)``, ``(..., K, D)``, ``(..., K, E)``.
        mask: boolean, broadcastable to ``(..., Q, K)``; True = attend. Masked keys get probability exactly 0,
            and a query that may attend to nothing gets zeros, not NaN.

    Returns:
        ``(..., Q, E)``.
    """
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is None:
        return softmax(scores, dim=-1) @ V
    # The lowest finite value instead of -inf: a row without any key would be 0/0 in the softmax.
    weights = softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=-1)
    return weights.masked_fill(~mask, 0.0) @ V
