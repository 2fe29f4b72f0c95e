"""Gradient clipping by the global norm."""

import functools
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from groundup.errors import ConfigError, TrainingError
from groundup.optim.dtensor import local, whole


def gradient_clipping(parameters: Iterable[torch.nn.Parameter], max_l2_norm: float) -> Tensor:
    """Scale all gradients in place by ``M / (norm + 1e-6)`` if their joint L2 norm exceeds M (Pascanu et al. 2013).

    Args:
        parameters: those without a gradient are skipped.
        max_l2_norm: M; infinity only measures.

    Returns:
        The norm before clipping, a scalar tensor.

    Raises:
        ConfigError: M is not positive.
        TrainingError: the norm is NaN or infinite; the gradients are left as they are.
    """
    norm = clip_gradients(parameters, max_l2_norm)
    if not torch.isfinite(norm):
        raise TrainingError(f"the gradient norm is {norm.item()}; nothing was clipped or applied")
    return norm


@torch.no_grad()
def clip_gradients(parameters: Iterable[torch.nn.Parameter], max_l2_norm: float) -> Tensor:
    """:func:`gradient_clipping` that never waits for a GPU.

    Gradients whose norm is NaN or infinite are left unchanged, without an error: the caller must check the norm before
    it uses the updated weights.

    Raises:
        ConfigError: M is not positive.
    """
    if not max_l2_norm > 0:
        raise ConfigError(f"max_l2_norm = {max_l2_norm}; expected a positive number")
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm = _global_norm(gradients)
    if max_l2_norm < math.inf:
        _scale_down(gradients, norm, max_l2_norm)
    return norm


def _global_norm(gradients: list[Tensor]) -> Tensor:
    # A norm of norms: never a copy of all gradients in one tensor.
    wide = functools.reduce(torch.promote_types, {g.dtype for g in gradients}, torch.float32)
    norms = torch._foreach_norm(gradients, 2, wide)
    norm = torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms]))
    return whole(norm) if hasattr(norm, "to_local") else norm  # a DTensor's norm is summed over the ranks


def _scale_down(gradients: list[Tensor], norm: Tensor, limit: float) -> None:
    factor = clip_factor(norm, limit)
    if factor.device.type == "cpu" and factor == 1:  # to look is free here, and saves a pass over the gradients
        return
    torch._foreach_mul_([local(g) if hasattr(g, "to_local") else g for g in gradients], factor)


def clip_factor(norm: Tensor, limit: float) -> Tensor:
    """Return limit / (norm + 1e-6) if the norm is finite and above the limit, else 1, which changes no bit."""
    return torch.where(norm.isfinite() & (norm > limit), limit / (norm + 1e-6), 1.0)
