"""The formulas of the model that have no parameters: SiLU, soft-capping, softmax, attention, cross-entropy."""

import math

import torch
from torch import Tensor

from groundup.errors import ConfigError

# Shapes: Q queries, K keys, D head size, E value size, V vocabulary; leading dimensions are arbitrary.


def silu(x: Tensor) -> Tensor:
    """Sigmoid linear unit, ``x · sigmoid(x)``, elementwise (Elfwing et al. 2017)."""
    return x * torch.sigmoid(x)


def softcapped(logits: Tensor, bound: float) -> Tensor:
    """``bound · tanh(logits / bound)``, in the logits' dtype (Bello et al. 2016; Gemma 2)."""
    return bound * torch.tanh(logits / bound)


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


def causal_mask(queries: int, keys: int, device: torch.device | None = None) -> Tensor:
    """``(queries, keys)`` boolean, True where a query may attend; the last query is aligned with the last key."""
    positions = torch.arange(keys, device=device)
    return positions[keys - queries :, None] >= positions[None, :]


def cross_entropy(logits: Tensor, targets: Tensor, *, ignore_index: int | None = None) -> Tensor:
    """Mean over all positions of ``log(sum(exp(logits))) - logits[target]``, in nats, computed in float32 or wider.

    The formula that :func:`groundup.nn.cross_entropy` computes with less memory (:mod:`groundup.nn.fast.loss`).

    Args:
        logits: ``(..., V)``, unnormalized.
        targets: ``(...)``, integer classes below V.
        ignore_index: target of positions that do not count; the mean is over the others, and 0 without any.

    Raises:
        ConfigError: the shapes do not match.
    """
    check_targets(logits, targets)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    shifted = wide - wide.amax(-1, keepdim=True)
    counts = None if ignore_index is None else targets != ignore_index
    classes = targets if counts is None else targets.where(counts, 0)
    at_target = shifted.gather(-1, classes[..., None]).squeeze(-1)
    return mean_loss(shifted.exp().sum(-1).log() - at_target, counts)


def mean_loss(losses: Tensor, counts: Tensor | None) -> Tensor:
    """Mean of the losses of the positions that count, a scalar; 0 where none does.

    Args:
        counts: boolean, in the shape of losses; None if all count.
    """
    if counts is None:
        return losses.mean()
    return losses.where(counts, 0).sum() / counts.sum().clamp(min=1)


def check_targets(logits: Tensor, targets: Tensor) -> None:
    """Raise a ConfigError unless there is one target for each row of logits."""
    if logits.shape[:-1] != targets.shape:
        raise ConfigError(
            f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} do not match; "
            f"expected targets {tuple(logits.shape[:-1])}"
        )
