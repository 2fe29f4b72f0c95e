"""AdamW: Adam with decoupled weight decay."""

import math
from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
from torch import Tensor

from groundup.errors import ConfigError
from groundup.optim.base import GroupwiseOptimizer, check_learning_rate, check_weight_decay
from groundup.optim.dtensor import local

State = MutableMapping[Tensor, dict[str, Any]]


class AdamW(GroupwiseOptimizer):
    """Adam with decoupled weight decay (Kingma & Ba 2015, sec. 2 end; Loshchilov & Hutter 2019, alg. 2).

    With t counted from 1, for each parameter θ with gradient g:

        m <- β1 m + (1 - β1) g
        v <- β2 v + (1 - β2) g²
        θ <- θ - lr sqrt(1 - β2^t) / (1 - β1^t) · m / (sqrt(v) + eps)
        θ <- θ - lr λ θ

    State per parameter: ``step`` (int), ``exp_avg`` m and ``exp_avg_sq`` v in float32 or the parameter's wider dtype.

    Args:
        params: parameters or groups of them, as in every torch optimizer.
        lr, betas, eps, weight_decay: lr, (β1, β2), eps, λ.
        fused: one kernel over all parameters instead of the loop above, without memory beyond the state. Equal to
            rounding; same state.

    Raises:
        ConfigError: a negative learning rate, eps or weight decay, or a beta outside [0, 1).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        fused: bool = False,
    ):
        check_learning_rate(lr)
        check_weight_decay(weight_decay)
        if not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"betas = {betas}; expected two numbers in [0, 1)")
        if not 0 <= eps < math.inf:
            raise ConfigError(f"eps = {eps}; expected a finite number, 0 or greater")
        self.fused = fused
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _update(self, group: dict[str, Any], skip: Tensor | None) -> None:
        adamw_update(group, self.state, fused=self.fused, skip=skip)


def adamw_update(group: dict[str, Any], state: State, *, fused: bool, skip: Tensor | None = None) -> None:
    """One step of :class:`AdamW` for the parameters of a group that have a gradient. Call it under no_grad.

    Args:
        group: ``params, lr, betas, eps, weight_decay``; with ``cautious`` a weight decays only where the update moves
            it towards 0 as well, by λ θ of the θ before the update (cautious weight decay; Chen et al. 2025).
        state: by parameter; entries are made where they are missing.
        skip: 1 skips the update (:meth:`GroupwiseOptimizer.step`); only the fused kernel reads it without a sync.
    """
    if group.get("cautious", False):
        _decay_cautiously(group, state, skip)
        group = group | {"weight_decay": 0.0}
    # One launch of the kernel takes tensors that have their count of steps, device and dtype in common.
    alike: dict[tuple[int, torch.device, torch.dtype], list[tuple[Tensor, ...]]] = {}
    for p in group["params"]:
        if p.grad is None:
            continue
        own = state[p]
        if not own:
            wide = torch.promote_types(p.dtype, torch.float32)
            own["step"] = 0
            own["exp_avg"] = torch.zeros_like(p, dtype=wide, memory_format=torch.preserve_format)
            own["exp_avg_sq"] = torch.zeros_like(p, dtype=wide, memory_format=torch.preserve_format)
        own["step"] += 1
        tensors: tuple[Tensor, ...] = (p, p.grad, own["exp_avg"], own["exp_avg_sq"])
        if hasattr(p, "to_local"):  # AdamW is element-wise, so a rank updates its own shard of a DTensor
            tensors = tuple(map(local, tensors))
        if fused and _suits_kernel(group, *tensors):
            alike.setdefault((own["step"], p.device, p.dtype), []).append(tensors)
        elif skip is None or not skip:
            _update_plainly(group, own["step"], *tensors)
    for (t, device, _), same in alike.items():
        _update_fused(group, t, device, same, skip)


def _decay_cautiously(group: dict[str, Any], state: State, skip: Tensor | None) -> None:
    beta1 = group["betas"][0]
    for p in group["params"]:
        if p.grad is not None:
            share, g = local(p), local(p.grad)
            # The update has the sign of the moment that it is about to have; the denominator is positive.
            direction = (
                torch.lerp(local(state[p]["exp_avg"]), g.to(state[p]["exp_avg"].dtype), 1 - beta1) if state[p] else g
            )
            agrees = share * direction > 0
            if skip is not None:
                agrees &= skip == 0
            share.sub_(share * agrees, alpha=group["lr"] * group["weight_decay"])


def _suits_kernel(group: dict[str, Any], p: Tensor, g: Tensor, m: Tensor, v: Tensor) -> bool:
    # It reads the four as flat memory of one dtype and order, and wants a decay that leaves something of the parameter.
    one_dtype = p.dtype == g.dtype == m.dtype == v.dtype
    one_order = p.is_contiguous() and p.stride() == g.stride() == m.stride() == v.stride()
    return one_dtype and one_order and group["lr"] * group["weight_decay"] < 1


def _update_plainly(group: dict[str, Any], t: int, p: Tensor, g: Tensor, m: Tensor, v: Tensor) -> None:
    beta1, beta2 = group["betas"]
    g = g.to(m.dtype)
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    rate = group["lr"] * math.sqrt(1 - beta2**t) / (1 - beta1**t)
    p.addcdiv_(m, v.sqrt().add_(group["eps"]), value=-rate)
    p.mul_(1 - group["lr"] * group["weight_decay"])


def _update_fused(
    group: dict[str, Any], t: int, device: torch.device, same: list[tuple[Tensor, ...]], skip: Tensor | None
) -> None:
    params, gradients, first_moments, second_moments = map(list, zip(*same, strict=True))
    beta1, beta2 = group["betas"]
    # torch's kernel computes θ (1 - lr λ) - lr / (1 - β1^t) · m / (sqrt(v) / sqrt(1 - β2^t) + eps): the decay does
    # not shrink the update, and eps stands beside the bias-corrected root. These arguments make it our formula.
    shrink = 1 - group["lr"] * group["weight_decay"]
    # full() fills on the device; tensor() would copy from the host, and wait for it.
    step = torch.full((), float(t), dtype=torch.float32, device=device)
    torch._fused_adamw_(
        params,
        gradients,
        first_moments,
        second_moments,
        [],
        [step] * len(params),
        lr=group["lr"] * shrink,
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"] / shrink,
        eps=group["eps"] / math.sqrt(1 - beta2**t),
        amsgrad=False,
        maximize=False,
        found_inf=None if skip is None else skip.to(device, torch.float32),
    )
