"""AdamW: Adam with decoupled weight decay."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from groundup.errors import ConfigError
from groundup.optim.options import check_learning_rate


class AdamW(torch.optim.Optimizer):
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
        fused: one kernel over all parameters instead of the loop above. Equal to rounding; same state.

    Raises:
        ConfigError: a negative rate, eps or decay, or a beta outside [0, 1).
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
        if not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"betas = {betas}; expected two numbers in [0, 1)")
        if not (eps >= 0 and weight_decay >= 0):
            raise ConfigError(f"eps = {eps}, weight_decay = {weight_decay}; expected numbers 0 or greater")
        self.fused = fused
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; returns what ``closure`` returns, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if not self.state[p]:
                    dtype = torch.promote_types(p.dtype, torch.float32)
                    zeros = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
                    self.state[p] = {"step": 0, "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
                self.state[p]["step"] += 1
            # The kernel wants state of the parameter's own dtype, and a decay that leaves something of the parameter.
            by_kernel = self.fused and group["lr"] * group["weight_decay"] < 1
            fused = [p for p in params if by_kernel and self.state[p]["exp_avg"].dtype == p.dtype]
            self._update_fused(group, fused)
            done = set(map(id, fused))
            self._update(group, [p for p in params if id(p) not in done])
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state; the moments keep their dtype, which torch would cast to the parameter's."""
        super().load_state_dict(state_dict)
        parameters = [p for group in self.param_groups for p in group["params"]]
        names = [i for group in state_dict["param_groups"] for i in group["params"]]
        for p, name in zip(parameters, names, strict=True):
            for key, saved in state_dict["state"].get(name, {}).items():
                if isinstance(saved, Tensor) and saved.dtype != self.state[p][key].dtype:
                    self.state[p][key] = saved.to(p.device, copy=True)

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        for p in params:
            t, m, v = (self.state[p][key] for key in ("step", "exp_avg", "exp_avg_sq"))
            g = p.grad.to(m.dtype)  # type: ignore[union-attr]
            m.mul_(beta1).add_(g, alpha=1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            rate = group["lr"] * math.sqrt(1 - beta2**t) / (1 - beta1**t)
            p.sub_(rate * m / (v.sqrt() + group["eps"]))
            p.mul_(1 - group["lr"] * group["weight_decay"])

    def _update_fused(self, group: dict[str, Any], params: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        # torch's kernel computes θ (1 - lr λ) - lr / (1 - β1^t) · m / (sqrt(v) / sqrt(1 - β2^t) + eps): the decay does
        # not shrink the update, and eps stands beside the bias-corrected root. These arguments make it our formula.
        shrink = 1 - group["lr"] * group["weight_decay"]
        alike: dict[tuple[int, torch.device, torch.dtype], list[Tensor]] = {}
        for p in params:
            alike.setdefault((self.state[p]["step"], p.device, p.dtype), []).append(p)
        for (t, device, _), same in alike.items():
            step = torch.tensor(float(t), device=device)
            torch._fused_adamw_(
                same,
                [p.grad for p in same],  # type: ignore[misc]
                [self.state[p]["exp_avg"] for p in same],
                [self.state[p]["exp_avg_sq"] for p in same],
                [],
                [step] * len(same),
                lr=group["lr"] * shrink,
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"] / shrink,
                eps=group["eps"] / math.sqrt(1 - beta2**t),
                amsgrad=False,
                maximize=False,
            )
