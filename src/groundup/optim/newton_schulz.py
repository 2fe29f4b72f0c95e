"""Orthogonalization of matrices by Newton-Schulz iteration."""

import torch
from torch import Tensor

# Shapes: B matrices in a batch, M rows, N columns.

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of the quintic a x + b x³ + c x⁵ (Jordan et al. 2024). Its slope at 0 is as steep as it can be while singular
values stay near 1, so that five iterations lift small ones there; they end between about 0.7 and 1.2, not at 1."""

SMALLEST_NORM = 1e-7
"""A matrix whose Frobenius norm is below this is divided by this instead: 0 stays 0."""


def orthogonalize(x_BMN: Tensor, iterations: int = 5) -> Tensor:
    """About U Vᵀ for each matrix U S Vᵀ of a batch: its singular values are brought near 1 (Jordan et al. 2024).

        X <- X / |X|
        X <- a X + (b A + c A²) X,  A = X Xᵀ        (iterations times)

    Computed in the dtype of x, with the smaller side first, so that A is as small as it can be. Takes the memory of
    x twice, beside x.

    Shapes: ``(B, M, N)`` -> the same.
    """
    a, b, c = COEFFICIENTS
    tall = x_BMN.shape[1] > x_BMN.shape[2]
    x = x_BMN.mT if tall else x_BMN
    wide = torch.promote_types(x.dtype, torch.float32)
    norm_B11 = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=wide).clamp_(min=SMALLEST_NORM)
    x = x / norm_B11.to(x.dtype)
    for _ in range(iterations):
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x
