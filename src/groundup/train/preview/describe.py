"""Description of a run before it begins: model, data, optimizer and disk."""

from __future__ import annotations

import torch
from torch import nn

from groundup.account import parameter_count, training_flops_per_token
from groundup.config import ModelConfig, RunConfig
from groundup.data.batches import DocumentRows
from groundup.data.shards import TokenShards
from groundup.display.section import Section
from groundup.display.units import size_text
from groundup.optim.schedule import describe_schedule
from groundup.train.device import MFU_CONVENTION, device_name, known_peak
from groundup.train.limits import best_bytes, checkpoint_bytes, checkpoints_at_once, disk_warning, free_bytes


def describe(
    config: RunConfig, train: TokenShards, valid: TokenShards | None, device: str, ranks: int = 1
) -> dict[str, str]:
    """Names and values of a resolved run, derived values included."""
    model, data = config.model, config.data
    micro = f" in {data.micro_batches(ranks)} micro-batches" if data.micro_batches(ranks) > 1 else ""
    step_tokens = data.batch_size * model.context_length
    total = config.train.max_iters * step_tokens
    epochs = total / len(train)
    batch = f"{data.batch_size} x {model.context_length} = {step_tokens:,} tokens a step{micro}"
    if (offsets := train.offsets_for(data.pack)) is not None:
        sequences = len(DocumentRows(offsets, model.context_length))
        epochs = config.train.max_iters * data.batch_size / sequences
        batch = f"{data.batch_size} documents a step{micro}, longer ones than {model.context_length} tokens in parts"
    up_to = "up to " if data.pack == "documents" else ""
    flops = total * training_flops_per_token(model)
    rows = {
        "model": f"{parameter_count(model):,} parameters: {model.num_layers} layers, d_model {model.d_model}, "
        f"{model.num_heads} heads{_shared(model)} of {model.head_dim}, {model.ffn} d_ff {model.ffn_dim}, "
        f"vocabulary {model.vocab_size:,}",
        "data": f"{len(train):,} training tokens{_counted(train)}"
        + (f", {len(valid):,} for validation{_counted(valid)}" if valid else ""),
        "batch": batch,
        "length": f"{config.train.max_iters:,} steps = {up_to}{total:,} tokens = {epochs:.2f} epochs, "
        f"{up_to}{flops:.2e} FLOPs",
        "optimizer": f"{config.optim.optimizer}, learning rate {describe_schedule(config.optim)}",
        "device": f"{device} ({device_name(device)}), {config.train.precision}",
        "run": str(config.run_dir),
    }
    peak = (known_peak(config.train, device) or 0) * ranks
    rows["MFU"] = (
        f"of {peak / 1e12:,.1f} TFLOP/s, counting {MFU_CONVENTION}"
        if peak
        else "n/a: the peak of this device is not known; set train.peak_tflops"
    )
    if config.train.average_last:
        rows["average"] = (
            f"of the weights over the last {config.train.average_last:.0%} of the steps; checkpoints from these steps "
            f"hold it, and it is evaluated and used"
        )
    if ranks > 1:
        rows["ranks"] = f"{ranks} ({config.train.parallel}), {data.batch_size // ranks} sequences a step each"
    if minutes := config.train.minutes:
        rows["length"] = (
            f"{minutes:g} minutes in all, as many steps as they allow; the learning-rate schedule ends then"
            f"{_warmup_share(config, minutes)}"
        )
    if config.train.max_minutes:
        how = ", and the learning-rate schedule ends within them" if config.train.finish_schedule else ""
        rows["limit"] = f"{config.train.max_minutes:g} minutes{how}"
    return rows


def _warmup_share(config: RunConfig, minutes: float) -> str:
    share = config.optim.warmup_iters / config.train.max_iters
    return f"; warm-up takes {share:.1%} of the steps ({config.optim.warmup_iters} of {config.train.max_iters:,})"


def _counted(store: TokenShards) -> str:
    return f" ({store.counted:,} count for the loss)" if store.has_mask else ""


def _shared(model: ModelConfig) -> str:
    return f" ({model.kv_heads} of keys)" if model.kv_heads != model.num_heads else ""


def optimizer_section(optimizer: torch.optim.Optimizer) -> Section:
    """Table of the optimizer's parameter groups."""
    rows = [
        (
            str(group.get("name", i)),
            str(group.get("algorithm", type(optimizer).__name__.lower())),
            f"{len(group['params'])}",
            f"{sum(p.numel() for p in group['params']):,}",
            f"x {group.get('rate_scale', 1.0):g}",
            ", ".join(f"{beta:g}" for beta in group.get("betas", (group.get("momentum", 0),))),
            f"{group['weight_decay']:g}",
        )
        for i, group in enumerate(optimizer.param_groups)
    ]
    return Section(
        "optimizer",
        ("group", "algorithm", "tensors", "parameters", "learning rate", "betas or momentum", "weight decay"),
        rows,
    )


def disk_section(config: RunConfig, model: nn.Module, optimizer: torch.optim.Optimizer) -> Section:
    """Table of the disk space that checkpoints take and the free space."""
    one = checkpoint_bytes(model, optimizer, averaged=config.train.average_last > 0)
    count = checkpoints_at_once(config)
    best = best_bytes(config, model)
    rows = [
        ("one checkpoint", size_text(one)),
        ("checkpoints at once, at most", f"{count:,} = {size_text(one * count)}"),
        *([("weights of the best, at most", size_text(best))] if best else []),
        ("free", size_text(free_bytes(config.run_dir))),
    ]
    return Section("disk", ("part", "size"), rows, disk_warning(config, model, optimizer))
