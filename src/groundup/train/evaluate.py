"""Loss, perplexity and bits per byte on fixed windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from groundup.config import RunConfig
from groundup.data.batches import IGNORED, evaluation_batches
from groundup.data.shards import TokenShards
from groundup.errors import DataError
from groundup.generation.weights import Weights, quantize
from groundup.nn import TransformerLM
from groundup.record.run import RunDirectory
from groundup.system.threads import wait_by_load
from groundup.train.checkpoint.folder import load_model
from groundup.train.ranks.collective import Ranks

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer

Pack: TypeAlias = Literal["stream", "documents"]


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation."""

    loss: float
    """Mean nats per token that counts."""
    tokens: int
    """Number of scored targets: those that count for the loss."""
    bytes: int | None
    """Bytes of text of these targets; None if the data does not record them."""
    step: int | None = None
    """Optimizer steps of the checkpoint."""

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700))

    @property
    def bits_per_byte(self) -> float | None:
        """Total nats of the scored targets, document ends included, over their bytes of text.

        Comparable between tokenizers; of conversations, between those with the same template.
        """
        return self.loss * self.tokens / math.log(2) / self.bytes if self.bytes else None


def evaluate(
    model: nn.Module,
    store: TokenShards,
    context_length: int,
    *,
    batch_size: int = 32,
    limit: int = 0,
    documents: NDArray[np.uint64] | None = None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Score a split. Draws no random numbers, and restores the model's mode.

    Args:
        limit: windows to score, spread evenly; 0 scores every token of the split.
        documents: offsets of documents, if each window is to be a part of one (``data.pack``).
        ranks: share the batches. Each batch is scored as one process would score it and the sum is exact, so that the
            same weights have the same loss on any number of ranks. All ranks must call this, and all get the result.
    """
    found = evaluate_unless(lambda: False, model, store, context_length, batch_size, limit, ranks or Ranks(), documents)
    assert found is not None
    return found


def _embedded(model: nn.Module) -> int:
    """Number of ids that a model has embeddings for, also if it is wrapped."""
    return next(len(p) for name, p in model.named_parameters() if name.endswith("token_embeddings.weight"))


@torch.no_grad()
def evaluate_unless(
    stop: Callable[[], bool],
    model: nn.Module,
    store: TokenShards,
    context_length: int,
    batch_size: int,
    limit: int,
    ranks: Ranks,
    documents: NDArray[np.uint64] | None = None,
    compiled: Callable[..., Tensor] | None = None,
) -> Evaluation | None:
    """Evaluate as :func:`evaluate`, unless ``stop`` breaks it off.

    Args:
        stop: asked before each batch (on several ranks, before as many batches as there are ranks), with the same
            answer on all ranks. True ends the evaluation without a result.
        compiled: the model's compiled forward pass. It computes all batches but a smaller last one, for which it would
            be compiled again.

    Raises:
        DataError: no token of the split counts for the loss, or the model has no embedding for one.
    """
    device = next(model.parameters()).device
    lengths = store.token_lengths
    was_training = model.training
    model.eval()
    nats: list[float] = []
    tokens, size = 0, 0
    rows = _embedded(model)
    ignore_index = IGNORED if store.has_mask or documents is not None else None
    batches = evaluation_batches(
        store, context_length, batch_size, limit, documents=documents, masked=store.has_mask
    )  # fmt: skip
    for number, (x, y) in enumerate(batches):
        if number % ranks.size == 0 and stop():
            model.train(was_training)
            return None
        if (highest := max(int(x.max()), int(y.max()))) >= rows:
            raise DataError(
                f"{store.path} contains the token id {highest}, and the model has {rows} ids: the file was changed "
                f"after it was opened, or is another tokenizer's; restore it (`groundup data check` finds the file)"
            )
        forward = compiled if compiled is not None and len(x) == batch_size else model
        own = number % ranks.size == ranks.rank
        scored = y if ignore_index is None else y[y != ignore_index]
        loss = forward(x.to(device), targets=y.to(device), ignore_index=ignore_index).item() if own else 0.0
        nats.append(loss * scored.numel())
        tokens += scored.numel()
        size += 0 if lengths is None else int(lengths[scored.numpy()].sum())
    if 0 < len(nats) % ranks.size <= ranks.rank:
        model(x.to(device))  # this rank has no batch left, but a sharded model needs its forward pass
    model.train(was_training)
    if not tokens:
        raise DataError(f"{store.path}: none of its tokens counts for the loss; encode conversations with answers")
    return Evaluation(math.fsum(ranks.all_reduce_sum(nats)) / tokens, tokens, None if lengths is None else size)


@wait_by_load()
def evaluate_run(
    run: str | Path,
    checkpoint: str = "best",
    split: str = "valid",
    *,
    data: str = "",
    pack: Pack | None = None,
    device: str = "auto",
    weights: Weights = "float32",
) -> Evaluation:
    """Score a run's checkpoint on all of its training or validation split, or on other token shards.

    Args:
        pack: windows of the stream of tokens, or of one document each; None takes the run's.
        weights: type that the matrices are rounded to, as for :func:`groundup.load`.

    Raises:
        DataError: the run has no such split, or the shards' ids mean other tokens than the run's.
    """
    from groundup.train.device import choose_device

    directory = RunDirectory.open(run)
    config = directory.config
    source = data or {"train": config.data.train, "valid": config.data.valid}.get(split, "")
    if not source:
        raise DataError(f"{directory.path} names no {split!r} split; give one with --data FOLDER")
    store = TokenShards.open(source)
    model, state = load_model(directory, checkpoint, choose_device(config.train.device if device == "auto" else device))
    expected = state.get("tokenizer_sha256")
    if expected and store.tokenizer_sha256 and expected != store.tokenizer_sha256:
        check_same_ids(store, directory.tokenizer(), str(directory.path), str(directory.tokenizer_dir))
    config = directory.config_at(state)
    store.check_ids(config.model.vocab_size)
    found = evaluate(
        quantize(model, weights), store, config.model.context_length,
        batch_size=config.train.eval_batch_size, documents=store.offsets_for(pack or config.data.pack),
    )  # fmt: skip
    return Evaluation(found.loss, found.tokens, found.bytes, step=int(state["step"]))


def evaluate_shards(
    model: TransformerLM, tokenizer: Tokenizer, data: str | Path, name: str = "the model", *, pack: Pack = "stream"
) -> Evaluation:
    """Score a model that comes from no run on all tokens of a folder of shards.

    Args:
        name: of the model, for messages.
        pack: as for :func:`evaluate_run`.

    Raises:
        DataError: the shards' ids mean other tokens than the model's.
    """
    store = TokenShards.open(data)
    if store.tokenizer_sha256 and store.tokenizer_sha256 != tokenizer.sha256:
        check_same_ids(store, tokenizer, name, "its tokenizer")
    store.check_ids(model.vocab_size)
    defaults = RunConfig()
    return evaluate(
        model, store, model.context_length,
        batch_size=defaults.train.eval_batch_size, documents=store.offsets_for(pack),
    )  # fmt: skip


def check_same_ids(store: TokenShards, tokenizer: Tokenizer, name: str, wanted: str) -> None:
    """Refuse shards whose ids mean other tokens.

    Another pattern or version of Unicode splits text differently, but the ids may mean the same tokens.

    Raises:
        DataError: naming the first id that differs.
    """
    if difference := store.tokenizer().first_difference(tokenizer):
        raise DataError(
            f"{store.path} was made with another tokenizer than {name}: {difference}; encode the text with {wanted}"
        )
