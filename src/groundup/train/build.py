"""From a config to a trainer: device, token stores, model, optimizer, and the checks that come before them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from groundup.config import END_OF_TEXT, DataConfig, RunConfig, check_warmup, flatten, override
from groundup.data.batches import IGNORED, Batches, DeviceBatches, check_length
from groundup.data.shards import TokenShards
from groundup.errors import ConfigError, DataError, FileMissingError
from groundup.generation import prompt_ids
from groundup.nn import TransformerLM
from groundup.nn.fast.accelerate import accelerate
from groundup.optim import CombinedOptimizer, build_optimizer
from groundup.record.parent import Parent, absolute_init
from groundup.record.run import RunDirectory
from groundup.train.checkpoint.folder import FORMAT, VERSION
from groundup.train.checkpoint.initial import check_parent
from groundup.train.device import choose_precision
from groundup.train.limits import check_disk, check_fits
from groundup.train.ranks.collective import Ranks
from groundup.train.ranks.parallel import Parallel, make_parallel
from groundup.train.state import TrainState
from groundup.train.step import LossFunction, build_loss, compiled

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer


@dataclass
class Trainer:
    """Everything that one rank trains with; complete before the first step."""

    config: RunConfig
    """Resolved: device, precision, vocabulary size and absolute paths."""
    run: RunDirectory
    ranks: Ranks
    device: str
    train_store: TokenShards
    valid_store: TokenShards | None
    tokenizer: Tokenizer | None
    parallel: Parallel
    model: TransformerLM
    loss: LossFunction
    optimizer: CombinedOptimizer
    batches: DeviceBatches
    identity: dict[str, Any]
    """Entries of every checkpoint's ``state.json`` that stay the same in a session."""
    compiled: Callable[..., Tensor] | None
    """The compiled forward pass of the model, for evaluations; None if it is not compiled."""
    notes: list[str]
    """Warnings for the user: memory is tight, torch.compile does not work."""
    state: TrainState = field(default_factory=TrainState)


def build(
    config: RunConfig, device: str, ranks: Ranks | None = None, *, force: bool = False, parent: Parent | None = None
) -> Trainer:
    """Check a run and build its objects; call it within :func:`groundup.train.device.process_settings`.

    Args:
        device: this rank's, as :func:`groundup.train.device.choose_device` returns it.
        force: build a run though it cannot fit into memory, or a checkpoint on the disk.
        parent: begin with its weights, which :func:`groundup.train.checkpoint.initial.begin_with` loads.

    Raises:
        ConfigError, DataError, FileMissingError: the config, the data, or both together make no run.
    """
    ranks = ranks or Ranks()
    train_store, valid_store = open_stores(config.data)
    config = fit_vocabulary(config, train_store, valid_store, parent.model.vocab_size if parent else 0)
    precision = choose_precision(config.train.precision, device)
    config = override(config, {"train.precision": precision, **absolute_paths(config)})
    check_warmup(config)
    tokenizer = load_tokenizer(config, train_store)
    unsure = ""
    if parent is not None:
        config, unsure = check_parent(parent, config, tokenizer)
    if tokenizer is not None and config.sample.interval:
        prompt_ids(
            tokenizer, config.sample.prompt, config.sample.begin_token
        )  # an impossible prompt is an error now, not later
    tight = "" if force else check_fits(config, device, ranks, len(valid_store or ()))
    parallel = make_parallel(config.train.parallel, ranks)
    model = build_model(config, parallel.built_on(device))
    uncompiled = why_not_compiled(device) if config.train.compile else ""
    compile = config.train.compile and not uncompiled
    ranks.barrier()
    model = parallel.spread(model, device)
    data, context_length = config.data, config.model.context_length
    sequences = Batches(
        train_store, data.batch_size, context_length, config.train.seed, data.order,
        documents=train_store.offsets_for(data.pack), masked=train_store.has_mask,
    )  # fmt: skip
    loss = build_loss(
        parallel.training_form(model),
        compile=compile,
        mode=config.train.compile_mode,
        chunked=config.train.kernels == "fast",
        ignore_index=IGNORED if sequences.ignores else None,
    )
    optimizer = build_optimizer(model, config.optim)
    if ranks.is_main and not force:
        check_disk(config, model, optimizer)
    batches = DeviceBatches(
        sequences,
        micro_batches=data.micro_batches(ranks.size),
        vocab_size=config.model.vocab_size,
        device=device,
        rank=ranks.rank,
        world_size=ranks.size,
        source=data.train,
    )
    # A sharded model gathers its weights in hooks, which evaluation leaves as they are.
    evaluated = compiled(model, config.train.compile_mode) if compile and not parallel.all_compute else None
    identity = identity_of(config, train_store, valid_store)
    return Trainer(
        config, RunDirectory(config.run_dir), ranks, device, train_store, valid_store, tokenizer, parallel, model, loss,
        optimizer, batches, identity, evaluated, notes=[note for note in (unsure, tight, uncompiled) if note],
    )  # fmt: skip


def identity_of(config: RunConfig, train: TokenShards, valid: TokenShards | None) -> dict[str, Any]:
    """Return the entries of ``state.json`` that identify the run and its data."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "dataset_sha256": train.sha256,
        "tokenizer_sha256": train.tokenizer_sha256,
        "evaluated_on": [valid.sha256 if valid else None, config.train.eval_windows, *_packing(config.data)],
        "options": flatten(config),
    }


def _packing(data: DataConfig) -> list[str]:
    # Checkpoints from before the option have no entry for it.
    return [] if data.pack == "stream" else [data.pack]


def absolute_paths(config: RunConfig) -> dict[str, str]:
    """Return the paths of data and parent in absolute form, so that a run is evaluated and resumed from any folder."""
    paths = {f"data.{key}": getattr(config.data, key) for key in ("train", "valid", "vocab", "merges")}
    data = {key: str(Path(path).resolve()) for key, path in paths.items() if path}
    return data | ({"train.init": absolute_init(config.train.init)} if config.train.init else {})


def open_stores(config: DataConfig) -> tuple[TokenShards, TokenShards | None]:
    """Open the training tokens, and the validation tokens if the config names any.

    Raises:
        ConfigError: no training data named.
        FileMissingError: a path that does not exist; its option is named.
        DataError: the two were made with different tokenizers.
    """
    if not config.train:
        raise ConfigError("data.train is empty; expected a folder written by `groundup encode`, or a .npy file of ids")
    for option, path in (("data.train", config.train), ("data.valid", config.valid)):
        if path and not os.path.exists(path):
            raise FileMissingError(
                f"{option} = {path!r} does not exist; expected a folder of token shards or a .npy file of token ids; "
                f"write one with `groundup encode`, or give another with --{option}"
            )
    train = TokenShards.open(config.train)
    valid = TokenShards.open(config.valid) if config.valid else None
    if valid is not None and train.tokenizer_sha256 != valid.tokenizer_sha256:
        raise DataError(
            f"{config.train} and {config.valid} were made with different tokenizers (SHA-256 "
            f"{_short(train.tokenizer_sha256)} and {_short(valid.tokenizer_sha256)}); encode both with one"
        )
    return train, valid


def fit_vocabulary(config: RunConfig, train: TokenShards, valid: TokenShards | None, inherited: int = 0) -> RunConfig:
    """Return the config with model.vocab_size taken from the data, and check the data against it.

    Args:
        inherited: size of the parent's vocabulary, which is taken if it is larger.

    Raises:
        ConfigError: vocab_size is smaller than the tokenizer's, or unknown.
        DataError: a token id is at or above it, or the data is too short for one sequence.
    """
    wanted = config.model.vocab_size or max(train.vocab_size or 0, inherited)
    if not wanted:
        raise ConfigError(
            f"model.vocab_size = 0 takes the tokenizer's size, but {config.data.train} is a bare array; set it"
        )
    for path, store in ((config.data.train, train), (config.data.valid, valid)):
        if store is None:
            continue
        check_vocabulary(path, store, wanted)
    if config.data.pack == "stream":
        check_length(len(train), config.model.context_length)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=wanted))


def check_vocabulary(path: str, store: TokenShards, vocab_size: int) -> None:
    """Refuse tokens that a model of vocab_size rows cannot embed.

    Shards record their vocabulary size; a bare array is read once.
    """
    if store.vocab_size is None:
        store.check_ids(vocab_size)
    elif store.vocab_size > vocab_size:
        raise ConfigError(
            f"model.vocab_size = {vocab_size}, but the tokenizer of {path} has {store.vocab_size} ids; "
            f"set it to {store.vocab_size} or more, or to 0"
        )


def load_tokenizer(config: RunConfig, train: TokenShards) -> Tokenizer | None:
    """Load the data's tokenizer; None for bare ids without one.

    Raises:
        ConfigError: data.vocab names another tokenizer than the shards', or one too large for the model.
    """
    data = config.data
    if not data.vocab:
        return train.tokenizer() if train.tokenizer_sha256 is not None else None
    from groundup.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_files(data.vocab, data.merges)
    if END_OF_TEXT.encode() in tokenizer.vocab.values():
        tokenizer = Tokenizer(tokenizer.vocab, tokenizer.merges, [END_OF_TEXT])
    if tokenizer.vocab_size > config.model.vocab_size:
        raise ConfigError(
            f"data.vocab = {data.vocab!r} has {tokenizer.vocab_size} ids, but model.vocab_size is "
            f"{config.model.vocab_size}; name the tokenizer that made the data"
        )
    if train.tokenizer_sha256 not in (None, tokenizer.sha256):
        raise ConfigError(
            f"data.vocab = {data.vocab!r} is not the tokenizer that made {data.train}; "
            f"leave it out, the shards have theirs"
        )
    return tokenizer


def why_not_compiled(device: str) -> str:
    """Return why torch.compile does not work for a device here, in one line; empty if it works."""
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(64, device=device))
    except Exception as error:  # whatever compilers, drivers and torch itself raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return f"torch.compile does not work here ({reason.strip()[:120]}); going on without"
    return ""


def build_model(config: RunConfig, device: str) -> TransformerLM:
    """Build the model of a run, initialized from the run's seed: the same weights on every device."""
    torch.manual_seed(config.train.seed)
    model = accelerate(TransformerLM(config.model), kernels=config.train.kernels, attention=config.train.attention)
    model.to(device)
    if config.train.precision == "bf16":
        model.compute_dtype = torch.bfloat16
    model.checkpoint_activations = config.train.activation_checkpointing
    return model


def _short(sha256: str | None) -> str:
    return "unknown" if sha256 is None else f"{sha256[:12]}…"
