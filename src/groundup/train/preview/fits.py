"""Refusal of a run that cannot fit into memory, before anything is allocated."""

from __future__ import annotations

import dataclasses

import torch

from groundup.account import parameter_count
from groundup.account.fit import largest_batch, largest_model
from groundup.account.memory import StepMemory, available_memory, step_memory
from groundup.config import RunConfig
from groundup.config.options import nearest_divisors
from groundup.display.units import size_text
from groundup.errors import ConfigError
from groundup.train.ranks.collective import Ranks

_WITH_WASTE = 1.2
"""What a process takes, relative to its tensors: the allocator's holes and the libraries (docs/accounting.md)."""
_FLOAT32 = 4
_BYTES_OF_IDS = 16
"""Inputs and targets of a batch, each 8 bytes a token; the whole batch is made at once."""


def check_fits(config: RunConfig, device: str, ranks: Ranks, valid_tokens: int = 0) -> str:
    """Refuse a run of which the least that it needs is more than there is.

    The least is the peak of its tensors. A process takes more than that, so that nothing is refused that would fit;
    what may not fit is a note.

    Args:
        config: resolved, with the vocabulary's size.
        valid_tokens: length of the validation data; 0 without any.

    Returns:
        A note if it fits only just; otherwise nothing.

    Raises:
        ConfigError: it cannot fit; says how much it needs, how much there is, and what would fit.
    """
    here = ranks.launch.local_ranks
    ids = _BYTES_OF_IDS * (config.data.batch_size // ranks.size) * config.model.context_length
    if ids > (host := available_memory() / here):
        raise ConfigError(
            f"data.batch_size = {config.data.batch_size}: the token ids of one batch take {_size(ids)}, but "
            f"{_size(host)} are available on this machine; use a smaller batch, or go on with --force"
        )
    memory = _memory(config, device, ranks)
    there = memory_left(device) if device.startswith("cuda") else host
    least = _least(config, memory, ranks)
    if least > there:
        raise ConfigError(_too_large(config, memory, least, there, device, ranks))
    fixed = memory.weights + memory.optimizer_state if least == memory.peak else 0  # FSDP keeps a share of them
    if valid_tokens and (evaluation := fixed + _evaluation_bytes(config, valid_tokens)) > there:
        raise ConfigError(
            f"train.eval_batch_size = {config.train.eval_batch_size}: an evaluation needs at least "
            f"{_size(evaluation)} of memory, but {_size(there)} are available; use a smaller one, or go on with --force"
        )
    needed = _WITH_WASTE * memory.needed
    if least == memory.peak and needed > there:
        return (
            f"memory may run out: about {_size(needed)} are needed and {_size(there)} are available; a smaller "
            f"data.micro_batch_size, or train.background_checkpoints = false, needs less"
        )
    return ""


def memory_left(device: str) -> float:
    """Bytes of a CUDA device that are free, or this process's to use again."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _memory(config: RunConfig, device: str, ranks: Ranks) -> StepMemory:
    passes = config.data.passes(ranks.size)
    batch_size = config.data.batch_size // ranks.size // passes
    return step_memory(
        config.model, config.optim, config.train, batch_size=batch_size, passes=passes, device=_kind(device)
    )


def _least(config: RunConfig, memory: StepMemory, ranks: Ranks) -> float:
    if ranks.size == 1 or config.train.parallel == "ddp":
        return memory.peak
    # FSDP: a share of what does not depend on the batch, and the rank's own activations.
    return memory.fixed / ranks.size + memory.activations


def _evaluation_bytes(config: RunConfig, valid_tokens: int) -> float:
    """The least that a batch of an evaluation needs: its ids, the residual stream, and what the FFN is given."""
    context = config.model.context_length
    windows = -(-valid_tokens // context)
    batch_size = min(config.train.eval_batch_size, config.train.eval_windows or windows, windows)
    return batch_size * context * (_BYTES_OF_IDS + 2 * _FLOAT32 * config.model.d_model)


def _too_large(config: RunConfig, memory: StepMemory, least: float, there: float, device: str, ranks: Ranks) -> str:
    where = f"on {device}" if device.startswith("cuda") else "on this machine"
    return (
        f"the run needs at least {_size(least)} of memory (weights {_size(memory.weights)}, gradients "
        f"{_size(memory.gradients)}, optimizer {_size(memory.optimizer_state)}, activations "
        f"{_size(memory.activations)}), but {_size(there)} are available {where}; "
        f"{_what_fits(config, there, device, ranks)}, or go on with --force"
    )


def _what_fits(config: RunConfig, there: float, device: str, ranks: Ranks) -> str:
    data, kind = config.data, _kind(device)
    share = data.batch_size // ranks.size
    # A copy of a checkpoint is no part of the least, so it is none of what is compared with it.
    train = dataclasses.replace(config.train, background_checkpoints=False)
    most = largest_batch(config.model, config.optim, train, there, passes=2, device=kind)
    if fitting := [batch for batch in nearest_divisors(share, most + 1) if 0 < batch <= most]:
        return f"what fits: --micro_batch_size {fitting[0]}"
    batch_size = share // data.passes(ranks.size)
    model = largest_model(
        config.model, config.optim, train, there, batch_size=batch_size, passes=data.passes(ranks.size), device=kind
    )
    if model is None:
        return "no model of this shape fits; use a smaller batch, context or vocabulary"
    return (
        f"the largest of this shape that fits: --d_model {model.d_model} --num_layers {model.num_layers} --num_heads "
        f"{model.num_heads} ({parameter_count(model):,} parameters)"
    )


def _size(count: float) -> str:
    return size_text(count) if count < 1e18 else "more than a billion GB"


def _kind(device: str) -> str:
    return device.partition(":")[0]
