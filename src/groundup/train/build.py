"""From a config to the objects of a run: device, token stores, model, optimizer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from groundup.config import END_OF_TEXT, DataConfig, RunConfig, TrainConfig
from groundup.data.batches import check_length
from groundup.data.shards import TokenShards
from groundup.errors import ConfigError, DataError
from groundup.nn import TransformerLM, cross_entropy
from groundup.nn.fast.accelerate import accelerate
from groundup.optim import build_optimizer as build_optimizer  # stands here with the other builders of a run
from groundup.system.allocator import keep_freed_memory
from groundup.system.wide_products import use_wide_products
from groundup.train.step import LossFunction

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer


def absolute_paths(config: RunConfig) -> dict[str, str]:
    """The data's paths as they hold from any folder, so that a run can be evaluated and resumed from everywhere."""
    paths = {f"data.{key}": getattr(config.data, key) for key in ("train", "valid", "vocab", "merges")}
    return {key: str(Path(path).resolve()) for key, path in paths.items() if path}


def choose_device(name: str) -> str:
    """ "auto" resolved to the best device there is; other names checked.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
            raise RuntimeError("expected auto, cpu, cuda, cuda:N or mps")
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"train.device = {name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return name


def choose_precision(name: str, device: str) -> str:
    """ "auto" resolved to bf16 where the device has instructions for it, fp32 elsewhere; other names unchanged."""
    if name != "auto":
        return name
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device != "cpu":
        return "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def open_stores(config: DataConfig) -> tuple[TokenShards, TokenShards | None]:
    """The training tokens, and the validation tokens if the config names any.

    Raises:
        ConfigError: no training data named.
        DataError: the two were made with different tokenizers.
    """
    if not config.train:
        raise ConfigError("data.train is empty; expected a folder written by `groundup encode`, or a .npy file of ids")
    train = TokenShards.open(config.train)
    valid = TokenShards.open(config.valid) if config.valid else None
    if valid is not None and train.tokenizer_sha256 != valid.tokenizer_sha256:
        raise DataError(
            f"{config.train} and {config.valid} were made with different tokenizers (SHA-256 "
            f"{_short(train.tokenizer_sha256)} and {_short(valid.tokenizer_sha256)}); encode both with one"
        )
    return train, valid


def fit_vocabulary(config: RunConfig, train: TokenShards, valid: TokenShards | None) -> RunConfig:
    """The config with model.vocab_size settled by the data, and the data checked against it.

    Raises:
        ConfigError: vocab_size is smaller than the tokenizer's, or unknown.
        DataError: a token id is at or above it, or the data is too short for one sequence.
    """
    wanted = config.model.vocab_size or train.vocab_size
    if wanted is None:
        raise ConfigError(
            f"model.vocab_size = 0 takes the tokenizer's size, but {config.data.train} is a bare array; set it"
        )
    for path, store in ((config.data.train, train), (config.data.valid, valid)):
        if store is None:
            continue
        check_vocabulary(path, store, wanted)
    check_length(len(train), config.model.context_length)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=wanted))


def check_vocabulary(path: str, store: TokenShards, vocab_size: int) -> None:
    """Refuse tokens that a model of vocab_size rows cannot embed.

    Shards know their vocabulary; a bare array has to be read through.
    """
    if store.vocab_size is None:
        store.check_ids(vocab_size)
    elif store.vocab_size > vocab_size:
        raise ConfigError(
            f"model.vocab_size = {vocab_size}, but the tokenizer of {path} has {store.vocab_size} ids; "
            f"set it to {store.vocab_size} or more, or to 0"
        )


def load_tokenizer(config: RunConfig, train: TokenShards) -> Tokenizer | None:
    """The data's tokenizer, or None for bare ids that name none.

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


def prepare_device(config: TrainConfig, device: str) -> None:
    """Settings of the whole process that a run wants: how float32 is multiplied, which GPU is the current one, and
    that freed memory is kept."""
    torch.set_float32_matmul_precision(config.matmul_precision)
    if device.startswith("cuda"):
        # Events are recorded on the current device. On another one they would say that copies from this one are done.
        torch.cuda.set_device(device)
    if device == "cpu" and config.kernels == "fast":
        keep_freed_memory()
        use_wide_products()


def why_not_compiled(device: str) -> str:
    """Why torch.compile does not work for a device here, in a line; empty where it works."""
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(64, device=device))
    except Exception as error:  # whatever compilers, drivers and torch itself raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return f"torch.compile does not work here ({reason.strip()[:120]}); going on without"
    return ""


def build_model(config: RunConfig, device: str) -> TransformerLM:
    """The model of a run, initialized from the run's seed; the same weights whatever the device."""
    torch.manual_seed(config.train.seed)
    model = accelerate(TransformerLM(config.model), kernels=config.train.kernels, attention=config.train.attention)
    model.to(device)
    if config.train.precision == "bf16":
        model.compute_dtype = torch.bfloat16
    model.checkpoint_activations = config.train.activation_checkpointing
    return model


def build_loss(model: nn.Module, *, compile: bool, chunked: bool = True) -> LossFunction:
    """Inputs and targets to the mean loss. Compiling wraps the model here only, so its parameters keep their names.

    Args:
        chunked: never hold all logits; otherwise one formula after the other.
    """
    forward = torch.compile(model) if compile else model

    def chunked_loss(x: Tensor, y: Tensor) -> Tensor:
        return forward(x, targets=y)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(forward(x), y)

    return chunked_loss if chunked else loss


def _short(sha256: str | None) -> str:
    return "unknown" if sha256 is None else f"{sha256[:12]}…"
