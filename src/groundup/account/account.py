"""The account of a run: parameters, FLOPs, memory, time and what fits, from its options alone.

A document of plain values, whose keys are those of `groundup account --json`.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

from groundup.account.fit import TOKENS_PER_PARAMETER, largest_batch, largest_model, model_for_budget
from groundup.account.flops import forward_flops, forward_matmuls, recomputed_flops
from groundup.account.hardware import Card, card_flops, smallest_memory
from groundup.account.memory import step_memory
from groundup.account.params import parameter_count, parameters
from groundup.account.time import check_mfu, cpu_step_seconds, seconds, step_flops, tokens_within
from groundup.config import ModelConfig, RunConfig, override
from groundup.errors import ConfigError

DEFAULT_MFU = 0.4
"""Default MFU of a card: what well-tuned runs of models that fill it reach."""
CONVENTIONS = (
    "FLOPs are those of matmuls, 2mnp for (m x n) times (n x p); elementwise work, norms, softmax and the "
    "embedding look-up are left out. Attention is counted in full, not halved for the causal mask. The backward pass "
    "counts twice the forward; matmuls recomputed to save memory do not count.",
    "Memory is that of the tensors of one process, with weights, gradients and optimizer state in float32; torch "
    "itself, the allocator's fragmentation and other processes are left out. GB are 10^9 bytes, GiB 2^30.",
)


@dataclasses.dataclass(frozen=True)
class Device:
    """The device that a run is planned for."""

    name: str
    kind: str
    """"cpu", "cuda" or "mps": which kernels run."""
    precision: str
    """Precision of the peak: "fp32", "tf32" or "bf16"."""
    flops: float | None
    """Peak FLOP/s; None where no source states it."""
    memory: float | None
    """Bytes."""
    source: str
    measured: bool = False
    """The peak is that of a matmul timed on this machine, not a data sheet's."""


def card_device(card: Card, precision: str, matmul_precision: str = "highest") -> Device:
    """A card of the table at the precision of a run; "auto" is bf16 where the card supports it, fp32 elsewhere."""
    kind = "mps" if card.name.startswith("Apple") else "cuda"
    if precision == "auto":
        precision = "bf16" if card.bf16 else "fp32"
    exact = "tf32" if precision == "fp32" and matmul_precision == "high" and card.tf32 else precision
    return Device(card.key, kind, exact, card_flops(card, exact), smallest_memory(card), card.source)


def account(
    name: str,
    config: RunConfig,
    *,
    device: Device | None = None,
    mfu: float | None = None,
    tokens: int | None = None,
    fit_memory: int | None = None,
    fit_hours: float | None = None,
) -> dict[str, Any]:
    """Return the account of a run.

    Args:
        mfu: model FLOPs utilization, in (0, 1]; by default the prediction for a step on a CPU, and
            :data:`DEFAULT_MFU` elsewhere.
        tokens: tokens of the run; by default those of its steps.
        fit_memory: bytes; find the largest batch and the largest model that fit them.
        fit_hours: hours; count the tokens, and find the largest model that processes 20 tokens per parameter.

    Raises:
        ConfigError: no vocabulary size; fit_hours without a device whose peak is known.
        OverflowError: a result is beyond the range of a float.
    """
    if config.train.precision == "auto":
        bf16 = device is None or device.precision == "bf16"
        config = override(config, {"train.precision": "bf16" if bf16 else "fp32"})
    model, data, train = config.model, config.data, config.train
    if model.vocab_size == 0:
        raise ConfigError(f"{name}: model.vocab_size = 0 is taken from the data; give it, e.g. --vocab-size 10000")
    flops = step_flops(model, config.optim, data.batch_size)
    step_tokens = data.batch_size * model.context_length
    tokens = config.train.max_iters * step_tokens if tokens is None else tokens
    document: dict[str, Any] = {
        "name": name,
        "model": dataclasses.asdict(model)
        | {"d_ff": model.ffn_dim, "head_dim": model.head_dim, "num_kv_heads": model.kv_heads},
        "setting": {
            "batch_size": data.batch_size,
            "micro_batch_size": data.batch_size // data.micro_batches(),
            "passes": data.micro_batches(),
            "optimizer": config.optim.optimizer,
            "precision": train.precision,
            "attention": train.attention,
            "kernels": train.kernels,
            "activation_checkpointing": train.activation_checkpointing,
            "parallel": train.parallel,
        },
        "parameters": parameter_values(model),
        "flops": _flops(config, device),
        "memory": memory_values(config, _kind(device)),
        "run": {
            "tokens": tokens,
            "step_tokens": step_tokens,
            "steps": -(-tokens // step_tokens),
            "tokens_per_parameter": tokens / parameter_count(model),
            "flops": tokens * flops.model // step_tokens,
        },
    }
    if mfu is not None:
        check_mfu(mfu)
    share = share_of_peak(config, device) if mfu is None else mfu
    if device is not None:
        document["device"] = dataclasses.asdict(device)
        document["run"] |= _time(document["run"]["flops"], tokens, flops.model, device, share)
    if fit_memory is not None or fit_hours is not None:
        document["fit"] = _fit(config, device, share, fit_memory, fit_hours)
    document["conventions"] = list(CONVENTIONS)
    return document


def parameter_values(model: ModelConfig) -> dict[str, int]:
    """Parameters by component, as plain values."""
    count = parameters(model)
    derived = ("block", "blocks", "non_embedding", "total")
    return dataclasses.asdict(count) | {name: getattr(count, name) for name in derived}


def _flops(config: RunConfig, device: Device | None) -> dict[str, Any]:
    model = config.model
    matmuls = forward_matmuls(model)
    forward = forward_flops(model)
    components: Counter[str] = Counter()
    for matmul in matmuls:
        components[matmul.component] += matmul.flops
    step = step_flops(model, config.optim, config.data.batch_size)
    recomputed = config.data.batch_size * recomputed_flops(model, config.train, device=_kind(device))
    return {
        "products": [dataclasses.asdict(p) | {"flops": p.flops, "share": p.flops / forward} for p in matmuls],
        "components": {name: {"flops": flops, "share": flops / forward} for name, flops in components.items()},
        "forward_per_sequence": forward,
        "per_token": 3 * forward / model.context_length,
        "step": {
            "forward": step.forward,
            "backward": step.backward,
            "optimizer": step.optimizer,
            "repeated": recomputed,
            "model": step.model,
        },
    }


def memory_values(config: RunConfig, kind: str) -> dict[str, Any]:
    """Memory of a training step, as plain values.

    Args:
        kind: "cpu", "cuda" or "mps".
    """
    micro_batches = config.data.micro_batches()
    memory = step_memory(
        config.model, config.optim, config.train,
        batch_size=config.data.batch_size // micro_batches, micro_batches=micro_batches, device=kind,
    )  # fmt: skip
    kept = [
        {
            "component": tensor.component, "name": tensor.name, "shape": tensor.shape, "width": tensor.width,
            "times": tensor.times, "bytes": tensor.size,
        }
        for tensor in memory.kept
    ]  # fmt: skip
    return {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer_state": memory.optimizer_state,
        "average": memory.average,
        "activations": memory.activations,
        "kept": kept,
        "working": memory.working,
        "workspace": memory.workspace,
        "peak": memory.peak,
        "peak_moment": memory.moment,
        "checkpoint_copy": memory.checkpoint_copy,
        "needed": memory.needed,
    }


def _time(run_flops: int, tokens: int, step: int, device: Device, mfu: float) -> dict[str, Any]:
    if device.flops is None:
        return {"mfu": mfu, "seconds": None, "seconds_per_step": None, "tokens_per_second": None}
    whole = seconds(run_flops, device.flops, mfu)
    return {
        "mfu": mfu,
        "seconds": whole,
        "seconds_per_step": seconds(step, device.flops, mfu),
        "tokens_per_second": tokens / whole if whole else None,
    }


def share_of_peak(config: RunConfig, device: Device | None) -> float:
    """MFU of a step relative to a measured processor's fastest matmul where it can be predicted, else the default."""
    train = config.train
    as_fitted = train.precision == "fp32" and train.kernels == "fast" and train.attention == "flash"
    if device is None or not device.measured or not device.flops or not as_fitted:
        return DEFAULT_MFU
    micro_batches, batch_size = config.data.micro_batches(), config.data.batch_size
    whole = micro_batches * cpu_step_seconds(
        config.model, train, batch_size=batch_size // micro_batches, flops_per_second=device.flops
    )
    return min(1.0, step_flops(config.model, config.optim, batch_size).model / whole / device.flops)


def _fit(
    config: RunConfig, device: Device | None, mfu: float, fit_memory: int | None, fit_hours: float | None
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    micro_batches = config.data.micro_batches()
    micro = config.data.batch_size // micro_batches
    options = (config.model, config.optim, config.train)
    if fit_memory is not None:
        found |= {
            "memory": fit_memory,
            "batch_size": largest_batch(*options, fit_memory, micro_batches=micro_batches, device=_kind(device)),
            "model_at_batch_size": micro,
            "model": _shape(
                largest_model(*options, fit_memory, batch_size=micro, micro_batches=micro_batches, device=_kind(device))
            ),
        }
    if fit_hours is not None:
        if device is None or device.flops is None:
            raise ConfigError("--fit-hours needs a device whose peak is known; give --device, such as h200 or cpu")
        if not 0 < fit_hours < math.inf:
            raise ConfigError(f"--fit-hours = {fit_hours:g}; expected a positive, finite number")
        time = 3600 * fit_hours
        found |= {
            "hours": fit_hours,
            "tokens": tokens_within(config.model, time, device.flops, mfu),
            "tokens_per_parameter": TOKENS_PER_PARAMETER,
            "model_for_hours": _shape(model_for_budget(config.model, time, device.flops, mfu)),
        }
    return found


def _shape(model: ModelConfig | None) -> dict[str, int] | None:
    if model is None:
        return None
    return {
        "parameters": parameter_count(model), "num_layers": model.num_layers, "d_model": model.d_model,
        "num_heads": model.num_heads, "d_ff": model.ffn_dim,
    }  # fmt: skip


def _kind(device: Device | None) -> str:
    return "cuda" if device is None else device.kind
