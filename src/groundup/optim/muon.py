"""Muon: momentum orthogonalized by Newton-Schulz iteration."""

import functools
import math
from collections.abc import Iterable, MutableMapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from groundup.config.options import MuonCoefficients
from groundup.errors import ConfigError
from groundup.optim.base import GroupwiseOptimizer, check_learning_rate, check_weight_decay
from groundup.optim.dtensor import gather, is_sharded, local, own_share

Scale = Literal["rms", "spectral"]
State = MutableMapping[Tensor, dict[str, Any]]

# Shapes: B matrices in a batch, M rows, N columns.

BATCH_ELEMENTS = {"cpu": 2**21, "cuda": 2**24}
"""Most elements orthogonalized at once on a kind of device, unless one matrix has more; a step takes three times their
memory. Few enough for a CPU's cache, and enough to keep a GPU busy."""


COEFFICIENTS: dict[MuonCoefficients, tuple[tuple[float, float, float], ...]] = {
    "jordan": ((3.4445, -4.7750, 2.0315),),
    "polar-express": (
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ),
}
"""a, b, c of the quintics a x + b x³ + c x⁵, one after the other; the last one serves all further iterations.

jordan: the slope at 0 is as steep as it can be while singular values stay near 1, so that five iterations lift small
ones there; they end between about 0.7 and 1.2, not at 1 (Jordan et al. 2024). polar-express: each quintic is the best
one for the interval that the one before leaves, here for five iterations, with a safety margin of 2 % against rounding;
they end nearer to 1 (Amsel, Persson, Musco and Gower 2025, "The Polar Express", alg. 1)."""

SAFETY = {"jordan": 1.0, "polar-express": 1.02}
"""The matrix is divided by its norm times this: rounding must not carry a singular value out of the interval that the
coefficients are made for."""

SMALLEST_NORM = 1e-7
"""A matrix whose Frobenius norm is below this is divided by this instead: 0 stays 0."""


SMALLEST_ROOT = 1e-15
"""Likewise for the root of a row's mean square, which is not near this unless the row is 0."""


class Muon(GroupwiseOptimizer):
    """Momentum orthogonalized by Newton-Schulz iteration (Jordan et al. 2024), for the matrices of hidden layers.

    For each parameter Θ (M x N) with gradient G:

        P <- μ P + (1 - μ) G
        O <- orthogonalize((1 - μ) G + μ P)                 (Nesterov; orthogonalize ignores the scale)
        Θ <- Θ - lr λ Θ - lr · s O

    Options change O:

        equalize      rows are divided by their norms before orthogonalize (MuonEq-R, arXiv:2603.28254), and its result
                      is scaled to the norm sqrt(min(M, N)) of a matrix with orthogonal rows or columns (Muon+,
                      arXiv:2602.21545)
        variance β    v <- β v + (1 - β) mean of O² over each row; O <- O / sqrt(v), scaled back to the norm before
                      (NorMuon; Li et al. 2025)
        cautious      λ Θ counts only where O and Θ agree in sign (cautious weight decay; Chen et al. 2025)

    scale = "rms": s = 0.2 sqrt(max(M, N)) gives the update the root mean square of AdamW's, about 0.2, so that learning
    rate and weight decay tuned for AdamW carry over (Liu et al. 2025, sec. 2.2). scale = "spectral": s = sqrt(max(1,
    M / N)); what a step changes in W x is then the same for any width, and so is the best learning rate (Jordan et al.
    2024; Yang, Simon and Bernstein 2023, "A Spectral Condition for Feature Learning").

    Matrices of one shape are orthogonalized in one batch.

    State per parameter: ``momentum_buffer`` P in float32 or the parameter's wider dtype; with variance, also
    ``row_variance`` v of shape (M,).

    Args:
        params: matrices or groups of them, as in every torch optimizer.
        lr, momentum, weight_decay: lr, μ, λ.
        iterations: Newton-Schulz iterations.
        scale: "rms" or "spectral".
        coefficients: "jordan" or "polar-express"; see :data:`COEFFICIENTS`.
        equalize, variance, cautious: as above; False, 0 and False are Muon itself.
        dtype: what to orthogonalize in; None takes :func:`matrix_dtype`.

    Raises:
        ConfigError: a negative learning rate or decay, a momentum or variance outside [0, 1), no iterations, an unknown
            scale or coefficients, or a parameter that is not a matrix.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        *,
        iterations: int = 5,
        scale: Scale = "rms",
        coefficients: MuonCoefficients = "jordan",
        equalize: bool = False,
        variance: float = 0.0,
        cautious: bool = False,
        dtype: torch.dtype | None = None,
    ):
        check_learning_rate(lr)
        check_weight_decay(weight_decay)
        if not 0 <= momentum < 1:
            raise ConfigError(f"momentum = {momentum}; expected a number in [0, 1)")
        if iterations < 1:
            raise ConfigError(f"iterations = {iterations}; expected at least 1 Newton-Schulz iteration")
        if scale not in get_args(Scale):
            raise ConfigError(f"scale = {scale!r}; expected one of {', '.join(get_args(Scale))}")
        if coefficients not in COEFFICIENTS:
            raise ConfigError(f"coefficients = {coefficients!r}; expected one of {', '.join(COEFFICIENTS)}")
        if not 0 <= variance < 1:
            raise ConfigError(f"variance = {variance}; expected a number in [0, 1)")
        self.dtype = dtype
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "iterations": iterations, "scale": scale,
            "coefficients": coefficients, "equalize": equalize, "variance": variance, "cautious": cautious,
        }  # fmt: skip
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, of matrices only."""
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            check_matrix(p)

    def _update(self, group: dict[str, Any], skip: Tensor | None) -> None:
        muon_update(group, self.state, self.dtype, skip=skip)


def check_matrix(parameter: Tensor) -> None:
    """Refuse a parameter that cannot be orthogonalized."""
    if parameter.ndim != 2:
        raise ConfigError(
            f"Muon got a parameter of shape {tuple(parameter.shape)}; expected matrices, give the others to AdamW"
        )


def matrix_dtype(parameter: Tensor, *, rounded: bool = False) -> torch.dtype:
    """bfloat16 where matmuls are faster in it, float32 elsewhere; float64 for a float64 matrix.

    The iteration forgives bfloat16: its result is off by about a hundredth, and U Vᵀ itself only a direction.

    Args:
        rounded: the gradients come from bfloat16 products anyway (train.precision = "bf16"), so that bfloat16 is taken
            also where it is less than several times faster: on processors with AVX512-BF16.
    """
    if parameter.dtype == torch.float64:
        return torch.float64
    return _fast_dtype(parameter.device.type, rounded)


@functools.cache
def _fast_dtype(device_type: str, rounded: bool) -> torch.dtype:
    # In bfloat16 the iterations take 0.6 to 0.9 of float32's time on two threads of a Zen 5 with AVX512-BF16, for which
    # runs in float32 do not give up bits. Without these instructions bfloat16 is slower on a CPU.
    fast = (device_type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)) or (
        device_type == "cpu"
        and (torch.cpu._is_amx_tile_supported() or (rounded and torch.cpu._is_avx512_bf16_supported()))
    )
    return torch.bfloat16 if fast else torch.float32


def muon_update(
    group: dict[str, Any],
    state: State,
    dtype: torch.dtype | None = None,
    *,
    rounded: bool = False,
    skip: Tensor | None = None,
) -> None:
    """One step of :class:`Muon` for the parameters of a group that have a gradient. Call it under no_grad.

    Args:
        group: ``params, lr, momentum, weight_decay, iterations``, and of ``scale, coefficients, equalize, variance,
            cautious`` what is not the default of :class:`Muon`.
        state: by parameter; entries are made where they are missing.
        dtype: what to orthogonalize in; None takes :func:`matrix_dtype`.
        rounded: as in :func:`matrix_dtype`.
        skip: 1 moves no weight (:meth:`GroupwiseOptimizer.step`).
    """
    alike: dict[tuple[torch.Size, torch.device, torch.dtype], list[Tensor]] = {}
    for p in group["params"]:
        if p.grad is not None and p.numel():
            alike.setdefault((p.shape, p.device, dtype or matrix_dtype(p, rounded=rounded)), []).append(p)
    for (shape, device, working), same in alike.items():
        at_once = max(1, BATCH_ELEMENTS.get(device.type, 2**24) // shape.numel())
        for start in range(0, len(same), at_once):
            batch = same[start : start + at_once]
            x_BMN = torch.empty(len(batch), *shape, dtype=working, device=device)
            _momentum_into(x_BMN, batch, group["momentum"], state)
            equalize, variance = group.get("equalize", False), group.get("variance", 0.0)
            if equalize:
                x_BMN.div_(torch.linalg.vector_norm(x_BMN, dim=2, keepdim=True).clamp_(min=SMALLEST_NORM))
            x_BMN = orthogonalize(x_BMN, group["iterations"], group.get("coefficients", "jordan"))
            if equalize or variance:
                x_BMN.mul_(_row_factors(x_BMN, batch, equalize, variance, state))
            step = step_size(group["lr"], *shape, scale=group.get("scale", "rms"))
            _move(batch, x_BMN, step, group["lr"] * group["weight_decay"], skip, cautious=group.get("cautious", False))


def step_size(lr: float, rows: int, columns: int, *, scale: Scale) -> float:
    """Factor on an orthogonalized matrix, lr s; see :class:`Muon`."""
    return lr * 0.2 * math.sqrt(max(rows, columns)) if scale == "rms" else lr * math.sqrt(max(1.0, rows / columns))


def _momentum_into(x_BMN: Tensor, params: list[Tensor], momentum: float, state: State) -> None:
    """Advance the momentum and write the Nesterov direction of each parameter into its place of the batch."""
    for p in params:
        if not state[p]:
            wide = torch.promote_types(p.dtype, torch.float32)
            state[p]["momentum_buffer"] = torch.zeros_like(p, dtype=wide, memory_format=torch.preserve_format)
    buffers = [local(state[p]["momentum_buffer"]) for p in params]
    gradients = [
        local(p.grad).to(buffer.dtype)  # type: ignore[arg-type]  # each p has a gradient: see muon_update
        for p, buffer in zip(params, buffers, strict=True)
    ]
    torch._foreach_lerp_(buffers, gradients, 1 - momentum)
    for p, x_MN, gradient, buffer in zip(params, x_BMN, gradients, buffers, strict=True):
        if is_sharded(p):
            x_MN.copy_(gather(torch.lerp(gradient, buffer, momentum), p))
        else:
            torch.lerp(gradient, buffer, momentum, out=x_MN)


def _row_factors(x_BMN: Tensor, params: list[Tensor], equalize: bool, beta: float, state: State) -> Tensor:
    """Factors (B, M, 1) on the rows of orthogonalized matrices (Muon+, NorMuon), from one pass over them."""
    wide = torch.promote_types(x_BMN.dtype, torch.float32)
    rows_BM = torch.linalg.vector_norm(x_BMN, dim=2, dtype=wide)
    norm_B1 = torch.linalg.vector_norm(rows_BM, dim=1, keepdim=True).clamp_(min=SMALLEST_NORM)
    factors_BM = torch.ones_like(rows_BM)
    if equalize:
        factors_BM = factors_BM * (min(x_BMN.shape[1:]) ** 0.5 / norm_B1)
    if beta:
        rows_BM = rows_BM * factors_BM
        squares_BM = rows_BM.square() / x_BMN.shape[2]
        for p, squares_M in zip(params, squares_BM, strict=True):
            # Every rank has the whole matrix here, and keeps v of all of its rows.
            own = state[p]
            if "row_variance" not in own:
                own["row_variance"] = torch.zeros_like(squares_M, dtype=torch.promote_types(p.dtype, torch.float32))
            own["row_variance"].lerp_(squares_M.to(own["row_variance"].dtype), 1 - beta)
        roots_BM = torch.stack([state[p]["row_variance"] for p in params]).to(wide).sqrt().clamp_(min=SMALLEST_ROOT)
        norm_B1 = torch.linalg.vector_norm(rows_BM, dim=1, keepdim=True)
        evened_B1 = torch.linalg.vector_norm(rows_BM / roots_BM, dim=1, keepdim=True).clamp_(min=SMALLEST_NORM)
        factors_BM = factors_BM / roots_BM * (norm_B1 / evened_B1)
    return factors_BM.unsqueeze(2)


def _move(
    params: list[Tensor], x_BMN: Tensor, step: float, decay: float, skip: Tensor | None, *, cautious: bool
) -> None:
    kept: float | Tensor = 1 - decay
    if skip is not None:
        moves = skip == 0
        x_BMN = torch.where(moves, x_BMN, 0)
        kept = torch.where(moves, kept, 1.0)
    directions = [own_share(x_MN, p) if is_sharded(p) else x_MN for p, x_MN in zip(params, x_BMN, strict=True)]
    shares = [local(p) for p in params]
    if cautious and decay:
        for share, direction in zip(shares, directions, strict=True):
            share.sub_(share * (share * direction > 0), alpha=decay)  # where the step is skipped, direction is 0
    else:
        torch._foreach_mul_(shares, kept)
    torch._foreach_add_(shares, directions, alpha=-step)


def orthogonalize(x_BMN: Tensor, iterations: int = 5, coefficients: MuonCoefficients = "jordan") -> Tensor:
    """About U Vᵀ for each matrix U S Vᵀ of a batch: its singular values are brought near 1 (Jordan et al. 2024).

        X <- X / |X|
        X <- a X + (b A + c A²) X,  A = X Xᵀ        (iterations times; a, b, c by :data:`COEFFICIENTS`)

    Computed in the dtype of x, with the smaller side first, so that A is as small as it can be. Takes the memory of
    x twice, beside x.

    Shapes: ``(B, M, N)`` -> the same.
    """
    tall = x_BMN.shape[1] > x_BMN.shape[2]
    x = x_BMN.mT if tall else x_BMN
    wide = torch.promote_types(x.dtype, torch.float32)
    norm_B11 = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=wide).clamp_(min=SMALLEST_NORM)
    if (safety := SAFETY[coefficients]) != 1:
        norm_B11 = norm_B11 * safety
    x = x / norm_B11.to(x.dtype)
    triples = COEFFICIENTS[coefficients]
    for i in range(iterations):
        a, b, c = triples[min(i, len(triples) - 1)]
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x
