"""A run in words and tables, before it begins: what it is, what it costs, and whether it fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from groundup.account import parameter_count, training_flops_per_token
from groundup.account.units import size_text
from groundup.config import RunConfig
from groundup.data.shards import TokenShards
from groundup.optim.schedule import describe_schedule
from groundup.train.environment import device_name
from groundup.train.guards import checkpoint_bytes, free_bytes, most_checkpoints
from groundup.train.measure import MFU_CONVENTION, known_peak
from groundup.train.step import LossFunction


class Section(NamedTuple):
    """A table of the plan; all cells are text."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def describe(
    config: RunConfig, train: TokenShards, valid: TokenShards | None, device: str, ranks: int = 1
) -> dict[str, str]:
    """A resolved run in words, derived values included."""
    model, data = config.model, config.data
    micro = f" in {data.passes(ranks)} passes" if data.passes(ranks) > 1 else ""
    step_tokens = data.batch_size * model.context_length
    total = config.train.max_iters * step_tokens
    flops = total * training_flops_per_token(model)
    rows = {
        "model": f"{parameter_count(model):,} parameters: {model.num_layers} layers, d_model {model.d_model}, "
        f"{model.num_heads} heads of {model.head_dim}, {model.ffn} d_ff {model.ffn_dim}, "
        f"vocabulary {model.vocab_size:,}",
        "data": f"{len(train):,} training tokens" + (f", {len(valid):,} for validation" if valid else ""),
        "batch": f"{data.batch_size} x {model.context_length} = {step_tokens:,} tokens a step{micro}",
        "length": f"{config.train.max_iters:,} steps = {total:,} tokens = {total / len(train):.2f} epochs, "
        f"{flops:.2e} FLOPs",
        "optimizer": f"{config.optim.optimizer}, rate {describe_schedule(config.optim)}",
        "device": f"{device} ({device_name(device)}), {config.train.precision}",
        "run": str(config.run_dir),
    }
    peak = (known_peak(config.train, device) or 0) * ranks
    rows["MFU"] = (
        f"of {peak / 1e12:,.1f} TFLOP/s, counting {MFU_CONVENTION}"
        if peak
        else "n/a: no data sheet of this device is known; set train.peak_tflops"
    )
    if ranks > 1:
        rows["ranks"] = f"{ranks} ({config.train.parallel}), {data.batch_size // ranks} sequences a step each"
    if config.train.max_minutes:
        how = ", the schedule finished by then" if config.train.finish_schedule else ""
        rows["limit"] = f"{config.train.max_minutes:g} minutes{how}"
    return rows


def parameter_section(model: nn.Module) -> Section:
    """Parameters by component; every one is counted once."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[_component(name)] += parameter.numel()
    total = sum(counts.values())
    rows = [(name, f"{count:,}", f"{count / total:.1%}") for name, count in counts.items()]
    return Section("parameters", ("component", "parameters", "share"), [*rows, ("all", f"{total:,}", "")])


def _component(name: str) -> str:
    if "embeddings" in name:
        return "embedding"
    if "lm_head" in name:
        return "head"
    if ".attn." in name:
        return "attention"
    return "feed-forward" if ".ffn." in name else "norms"


def optimizer_section(optimizer: torch.optim.Optimizer) -> Section:
    """The optimizer's groups, as it has them."""
    rows = [
        (
            str(group.get("name", i)),
            str(group.get("algorithm", type(optimizer).__name__.lower())),
            f"{len(group['params'])}",
            f"{sum(p.numel() for p in group['params']):,}",
            f"x {group.get('rate_scale', 1.0):g}",
            f"{group['weight_decay']:g}",
        )
        for i, group in enumerate(optimizer.param_groups)
    ]
    return Section("optimizer", ("group", "algorithm", "tensors", "parameters", "rate", "weight decay"), rows)


def memory_section(
    config: RunConfig, model: nn.Module, optimizer: torch.optim.Optimizer, kept: dict[str, int], total: int
) -> Section:
    """Memory of a training step by what holds it.

    Args:
        kept: from :func:`kept_for_backward`.
        total: bytes that the device has.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    checkpoint = checkpoint_bytes(model, optimizer)
    parts = {"weights": weights, "gradients": weights, "optimizer state": checkpoint - weights, **kept}
    copied = checkpoint if config.train.background_checkpoints else 0
    on_gpu = next(model.parameters()).is_cuda
    if copied and not on_gpu:
        parts["copy of a checkpoint being written"] = copied
    needed = sum(parts.values())
    rows = [(name, size_text(count)) for name, count in parts.items() if count]
    rows.append(("all", f"{size_text(needed)} of {size_text(total)}"))
    if copied and on_gpu:
        rows.append(("beside it, in the host's memory", f"{size_text(copied)}, the copy of a checkpoint being written"))
    note = "Left out: results of single operations on their way, torch itself, and what the allocator cannot fill."
    if config.train.activation_checkpointing:
        note += " So are the activations of the block that is computed again."
    if needed > total:
        note += " It will not fit: use a smaller model, data.micro_batch_size or model.context_length."
    return Section("memory", ("part", "size"), rows, note)


def kept_for_backward(config: RunConfig, model: nn.Module, loss: LossFunction, x: Tensor, y: Tensor) -> dict[str, int]:
    """Bytes that one forward pass keeps for the backward pass, weights aside: found by making the pass.

    Args:
        x, y: inputs and targets of one pass, ``(micro_batch_size, context_length)``.

    Returns:
        Bytes of the logits and what is as large, and of all else. A compiled model is measured uncompiled, and may
        keep less.
    """
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, tuple[str, int]] = {}

    def note(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in weights:
            vocabulary_wide = saved.dim() > 1 and saved.shape[-1] == config.model.vocab_size
            kept[storage.data_ptr()] = ("logits" if vocabulary_wide else "activations", storage.nbytes())
        # Given back itself, a tensor that its own operation keeps would hold the graph, and the graph it, for ever.
        return saved.detach()

    with torch.compiler.set_stance("force_eager"), torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss(x, y)
    found = {"activations": 0, "logits": 0}
    for part, count in kept.values():
        found[part] += count
    if config.train.activation_checkpointing:
        # The hooks do not see the inputs of the blocks, which are kept as arguments.
        width = 2 if config.train.precision == "bf16" else 4
        found["activations"] += config.model.num_layers * x.numel() * config.model.d_model * width
    return found


def disk_section(config: RunConfig, model: nn.Module, optimizer: torch.optim.Optimizer) -> Section:
    """What the checkpoints will take, and what there is."""
    one, count = checkpoint_bytes(model, optimizer), most_checkpoints(config.train, evaluates=bool(config.data.valid))
    rows = [
        ("one checkpoint", size_text(one)),
        ("checkpoints at once, at most", f"{count:,} = {size_text(one * count)}"),
        ("free", size_text(free_bytes(config.run_dir))),
    ]
    return Section("disk", ("part", "size"), rows, disk_warning(config, model, optimizer))


def disk_warning(config: RunConfig, model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """One line if the checkpoints will not fit on the disk, or nothing."""
    evaluates = bool(config.data.valid)
    needed = checkpoint_bytes(model, optimizer) * most_checkpoints(config.train, evaluates=evaluates)
    free = free_bytes(config.run_dir)
    if needed <= free:
        return ""
    return (
        f"the checkpoints may take {size_text(needed)}, but {size_text(free)} are free where {config.run_dir} lies; "
        f"keep fewer (train.keep_checkpoints = {config.train.keep_checkpoints}) or choose another --runs_dir"
    )
