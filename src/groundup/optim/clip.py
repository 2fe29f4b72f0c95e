"""Gradient clipping by the global norm."""

from collections.abc import Iterable

import torch
from torch import Tensor

from groundup.errors import ConfigError, TrainingError


@torch.no_grad()
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
    if not max_l2_norm > 0:
        raise ConfigError(f"max_l2_norm = {max_l2_norm}; expected a positive number")
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    # A norm of norms: never a copy of all gradients in one tensor.
    norms = [torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)) for g in gradients]
    norm = torch.linalg.vector_norm(torch.stack([n.to(gradients[0].device) for n in norms]))
    if not torch.isfinite(norm):
        raise TrainingError(f"the gradient norm is {norm.item()}; nothing was clipped or applied")
    if norm > max_l2_norm:
        torch._foreach_mul_(gradients, max_l2_norm / (norm + 1e-6))
    return norm
