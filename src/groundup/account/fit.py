"""Largest batch and largest model of a family that fit a memory or a budget of FLOPs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction

from groundup.account.flops import forward_flops
from groundup.account.memory import step_memory
from groundup.account.params import parameter_count
from groundup.account.time import check_mfu
from groundup.config import ModelConfig, OptimConfig, TrainConfig

TOKENS_PER_PARAMETER = 20
"""Compute-optimal tokens per parameter, about (Hoffmann et al. 2022, table A3)."""


def largest(fits: Callable[[int], bool]) -> int:
    """Largest number for which ``fits`` holds, 0 if not for 1; it must hold for every smaller one too."""
    if not fits(1):
        return 0
    low = 1
    while fits(2 * low):
        low *= 2
    high = 2 * low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def largest_batch(
    model: ModelConfig,
    optim: OptimConfig,
    train: TrainConfig,
    memory: float,
    *,
    micro_batches: int = 1,
    device: str = "cuda",
) -> int:
    """Largest micro-batch whose step, of ``micro_batches``, fits ``memory`` bytes; 0 if none does."""

    def fits(batch_size: int) -> bool:
        one = step_memory(model, optim, train, batch_size=batch_size, micro_batches=micro_batches, device=device)
        return one.needed <= memory

    return largest(fits)


def scaled(model: ModelConfig, kv_heads: int) -> ModelConfig:
    """Model of the same family with ``kv_heads`` key/value heads: with the same head size, queries per key/value head,
    d_model / heads, d_ff / d_model and depth / width.
    """
    heads = kv_heads * model.num_heads // model.kv_heads
    d_ff = model.d_ff and 64 * max(1, _rounded(model.d_ff * heads, 64 * model.num_heads))
    return dataclasses.replace(
        model, d_model=max(1, heads * model.d_model // model.num_heads),
        num_layers=max(1, _rounded(model.num_layers * heads, model.num_heads)),
        num_heads=heads, num_kv_heads=kv_heads if model.num_kv_heads else 0, d_ff=d_ff,
    )  # fmt: skip


def _rounded(number: int, by: int) -> int:
    return (2 * number + by) // (2 * by)  # integers of any size


def largest_model(
    model: ModelConfig,
    optim: OptimConfig,
    train: TrainConfig,
    memory: float,
    *,
    batch_size: int,
    micro_batches: int = 1,
    device: str = "cuda",
) -> ModelConfig | None:
    """Largest model of a family that trains in ``memory`` bytes; None if one with a single key/value head does not."""

    def fits(kv_heads: int) -> bool:
        one = scaled(model, kv_heads)
        needed = step_memory(
            one, optim, train, batch_size=batch_size, micro_batches=micro_batches, device=device
        ).needed
        return needed <= memory

    kv_heads = largest(fits)
    return scaled(model, kv_heads) if kv_heads else None


def model_for_budget(model: ModelConfig, time: float, flops_per_second: float, mfu: float) -> ModelConfig | None:
    """Largest model of a family that processes 20 tokens per parameter in ``time`` seconds."""
    check_mfu(mfu)
    budget = Fraction(time) * Fraction(flops_per_second) * Fraction(mfu)

    def fits(kv_heads: int) -> bool:
        one = scaled(model, kv_heads)
        tokens = TOKENS_PER_PARAMETER * parameter_count(one)
        return 3 * forward_flops(one) * tokens <= budget * one.context_length

    kv_heads = largest(fits)
    return scaled(model, kv_heads) if kv_heads else None
