"""Batches as a pure function of (dataset, seed, step, rank), transfer to a device, and the classical random sampler.

There is no iterator and no state. The batch of any step can be computed at any time, so resuming costs nothing, and the
sequences of a step do not depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundup.errors import ConfigError, DataError

Integers = NDArray[np.int64]
IGNORED = -100
"""Target of a position that does not count for the loss, as torch's cross_entropy has it."""
_WINDOWS_AT_ONCE = 1024
_ROUNDED = 64
"""Lengths of batches of documents are multiples of it, so that a device sees few different shapes."""


class TokenStore(Protocol):
    """Interface of a dataset for batches; :class:`groundup.data.shards.TokenShards` implements it."""

    def __len__(self) -> int: ...

    def gather(self, starts: Integers, length: int) -> Integers:
        """Token ids ``(len(starts), length)``; row i begins at starts[i]."""
        ...

    def gather_counts(self, starts: Integers, length: int) -> NDArray[np.bool_]:
        """Which tokens of these windows count for the loss."""
        ...


class Batches:
    """Training batches of a run.

    order "shuffled": each epoch visits every window of context_length + 1 tokens once, in a new order. Consecutive
    windows share one token, so that inputs do not overlap. The windows begin at a new offset each epoch, so that
    document positions shift. Fewer than two windows of tokens at the ends are skipped, different ones each epoch.
    order "random": uniformly random windows.

    With ``documents`` a sequence is one document, or context_length tokens of a longer one (:class:`DocumentRows`);
    shorter ones are padded at the end, where causal attention from their own tokens does not see. So nothing attends
    from one document to another, and positions count from the document's beginning. An epoch visits every document
    once.

    Targets that do not count for the loss are IGNORED: those whose tokens do not count, and the padding.

    Args:
        store: the dataset.
        batch_size: sequences per step, over all ranks.
        context_length: tokens per sequence.
        documents: offsets of the documents, if a sequence is to be a part of one.
        masked: whether some tokens of the store do not count.

    Attributes:
        windows: sequences of an epoch.
        ignores: whether targets can be IGNORED.

    Raises:
        DataError: the dataset is shorter than one sequence and its last target.
    """

    def __init__(
        self,
        store: TokenStore,
        batch_size: int,
        context_length: int,
        seed: int,
        order: Literal["shuffled", "random"] = "shuffled",
        *,
        documents: NDArray[np.uint64] | None = None,
        masked: bool = False,
    ):
        if documents is None:
            check_length(len(store), context_length)
        if order not in ("shuffled", "random"):
            raise ConfigError(f"order = {order!r}; expected 'shuffled' or 'random'")
        self.store, self.batch_size, self.context_length = store, batch_size, context_length
        self.seed, self.order = seed, order
        self.masked, self.ignores = masked, masked or documents is not None
        self._rows = None if documents is None else DocumentRows(documents, context_length)
        self.last_start = len(store) - 1 - context_length
        # One window fewer than fit leaves room for the offset.
        self.windows = max(1, (len(store) - 1) // context_length - 1) if self._rows is None else len(self._rows)

    def starts(self, step: int) -> Integers:
        """Return the start positions of a step's sequences, ``(batch_size,)``; step counts from 0."""
        return self._places(step)[0]

    def tokens(self, step: int) -> int:
        """Return the number of input tokens of a step, without padding."""
        if self._rows is None:
            return self.batch_size * self.context_length
        return int(self._places(step)[1].sum())

    def counted(self, step: int) -> int:
        """Return the number of targets of a step that count for the loss, over all ranks.

        Every rank can know it without the others: batches are a function of the step.
        """
        starts, lengths = self._places(step)
        if not self.masked:
            return int(lengths.sum())
        return sum(
            int(self.store.gather_counts(starts[lengths == length] + 1, int(length)).sum())
            for length in np.unique(lengths)
        )

    def _places(self, step: int) -> tuple[Integers, Integers]:
        """Where the sequences of a step begin, and how many tokens each has."""
        if self._rows is None:
            return self._window_starts(step), np.full(self.batch_size, self.context_length)
        sequence = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.uint64)
        if self.order == "random":
            return self._rows.places(_below(_hash(sequence, self.seed, 0), self.windows))
        epoch, place = np.divmod(sequence, np.uint64(self.windows))
        row = np.empty(self.batch_size, dtype=np.int64)
        for e in np.unique(epoch):
            here = epoch == e
            row[here] = permute(place[here], self.windows, key=int(_hash(e, self.seed, 1)))
        return self._rows.places(row)

    def _window_starts(self, step: int) -> Integers:
        sequence = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.uint64)
        if self.order == "random":
            return _below(_hash(sequence, self.seed, 0), self.last_start + 1)
        epoch, place = np.divmod(sequence, np.uint64(self.windows))
        starts = np.empty(self.batch_size, dtype=np.int64)
        for e in np.unique(epoch):
            here = epoch == e
            window = permute(place[here], self.windows, key=int(_hash(e, self.seed, 1)))
            slack = self.last_start - (self.windows - 1) * self.context_length
            offset = _below(_hash(e, self.seed, 2), slack + 1)
            starts[here] = window * self.context_length + offset
        return starts

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step, LongTensors ``(batch_size / world_size, context_length)`` on the CPU.

        Of documents, they are only as long as the longest sequence needs, rounded up.

        Raises:
            ConfigError: the rank is not below world_size, or world_size does not divide the batch.
        """
        share, rest = divmod(self.batch_size, world_size)
        if rest or not 0 <= rank < world_size:
            raise ConfigError(
                f"batch_size = {self.batch_size} cannot be divided for rank = {rank} of {world_size}; expected a "
                f"batch_size that the number of ranks divides, and a rank from 0 to {world_size - 1}"
            )
        starts, lengths = (part[rank * share : (rank + 1) * share] for part in self._places(step))
        if not self.ignores:
            return _inputs_and_targets(self.store.gather(starts, self.context_length + 1))
        return padded(self.store, starts, lengths, self.context_length, masked=self.masked)

    def epoch(self, step: int) -> float:
        """Return the number of epochs before the step."""
        return step * self.batch_size / self.windows


class DocumentRows:
    """Documents cut into sequences of at most context_length tokens, and the target of each token.

    A document of n tokens, its separator included, has n - 1 pairs of input and target; its first token is a target of
    nothing. Longer documents than context_length + 1 are cut into several sequences, without overlap, so that each pair
    is in exactly one.

    Args:
        offsets: ``(documents + 1,)``, where each document begins, and the end of all.
    """

    def __init__(self, offsets: NDArray[np.uint64], context_length: int):
        self._offsets, self._length = offsets.astype(np.int64), context_length
        pairs = np.diff(self._offsets) - 1
        # _first[i] is document i's first row; one more entry for the end of all.
        self._first = np.concatenate([[0], np.cumsum(-(-pairs // context_length))])
        if not len(self):
            raise DataError("no document has two tokens; expected documents that have a token and its target")

    def __len__(self) -> int:
        return int(self._first[-1])

    def places(self, rows: Integers) -> tuple[Integers, Integers]:
        """Where rows begin, and how many inputs each has."""
        document = np.searchsorted(self._first, rows, side="right") - 1
        starts = self._offsets[document] + (rows - self._first[document]) * self._length
        return starts, np.minimum(self._offsets[document + 1] - 1 - starts, self._length)


def padded(
    store: TokenStore, starts: Integers, lengths: Integers, context_length: int, *, masked: bool
) -> tuple[Tensor, Tensor]:
    """Inputs and targets of sequences of these lengths, padded at the end to the longest, rounded up.

    What does not count as a target is IGNORED. The padding's inputs are 0, which nothing sees.
    """
    width = min(-(-int(lengths.max()) // _ROUNDED) * _ROUNDED, context_length)
    x = np.zeros((len(starts), width), np.int64)
    y = np.full((len(starts), width), IGNORED, np.int64)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        tokens = store.gather(starts[rows], int(length) + 1)
        targets = tokens[:, 1:]
        if masked:
            counts = store.gather_counts(starts[rows] + 1, int(length))
            targets = np.where(counts, targets, IGNORED)
        x[rows, :length], y[rows, :length] = tokens[:, :-1], targets
    return torch.from_numpy(x), torch.from_numpy(y)


class _Made(NamedTuple):
    """A rank's share of a step's batch, and the weight of each micro-batch's loss; None for equal ones."""

    x: Tensor
    y: Tensor
    weights: list[float] | None


class DeviceBatches:
    """Micro-batches of one rank on its device.

    For a GPU, a thread prefetches the next step's batch into pinned memory while the device computes, and the copy is
    asynchronous. Steps may be requested in any order; only the next one is prefetched.

    Args:
        micro_batches: micro-batches of a rank's share of a batch (gradient accumulation steps).
        vocab_size: rows of the model's embedding.
        source: name of the dataset, for messages.
    """

    def __init__(
        self,
        batches: Batches,
        *,
        micro_batches: int,
        vocab_size: int,
        device: str,
        rank: int = 0,
        world_size: int = 1,
        source: str = "",
    ):
        self.batches, self.count, self.device = batches, micro_batches, device
        self._vocab_size, self._rank, self._world_size, self._source = vocab_size, rank, world_size, source
        self._pinned = device.startswith("cuda")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches") if self._pinned else None
        self._ahead: tuple[int, Future[_Made]] | None = None

    def micro_batches(self, step: int) -> Iterator[tuple[Tensor, Tensor] | tuple[Tensor, Tensor, float]]:
        """Yield inputs and targets, ``(micro_batch_size, context_length)`` each; step counts from 0.

        Where targets can be IGNORED, a third value is the weight of the micro-batch's mean loss in the step's: its
        share of all targets of the step that count, times the number of ranks, whose losses and gradients are averaged.

        Raises:
            DataError: a token id is not below vocab_size.
        """
        made = self._make(step) if self._thread is None else self._made_ahead(step, self._thread)
        for number, (x, y) in enumerate(zip(made.x.chunk(self.count), made.y.chunk(self.count), strict=True)):
            on_device = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
            yield on_device if made.weights is None else (*on_device, made.weights[number])

    def close(self) -> None:
        """End the thread; the batch that it prefetches is dropped."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _made_ahead(self, step: int, thread: ThreadPoolExecutor) -> _Made:
        ready, self._ahead = self._ahead, None
        batch = ready[1].result() if ready is not None and ready[0] == step else self._make(step)
        self._ahead = step + 1, thread.submit(self._make, step + 1)
        return batch

    def _make(self, step: int) -> _Made:
        x, y = self.batches.batch(step, self._rank, self._world_size)
        highest = max(int(x.max()), int(y.max()))
        if highest >= self._vocab_size:
            raise DataError(
                f"{self._source} contains the token id {highest}, but model.vocab_size is {self._vocab_size}; the "
                f"shards have changed or are damaged: encode the text again"
            )
        weights = None
        if self.batches.ignores:
            total = max(self.batches.counted(step), 1)
            weights = [int((part != IGNORED).sum()) * self._world_size / total for part in y.chunk(self.count)]
        return _Made(x.pin_memory(), y.pin_memory(), weights) if self._pinned else _Made(x, y, weights)


def evaluation_windows(num_tokens: int, context_length: int, limit: int = 0) -> Iterator[tuple[int, int]]:
    """``(start, length)`` of the evaluation windows of a split; deterministic.

    Args:
        limit: number of windows, spread evenly; 0 covers every token, and the last window may be shorter.

    Raises:
        DataError: the split has fewer than 2 tokens, one input and one target.
    """
    if num_tokens < 2:
        raise DataError(f"the split has {num_tokens} tokens; evaluation needs at least 2")
    full, rest = divmod(num_tokens - 1, context_length)
    if limit and limit <= full:
        for i in range(limit):
            yield i * full // limit * context_length, context_length
        return
    for i in range(full):
        yield i * context_length, context_length
    if rest:
        yield full * context_length, rest


def evaluation_batches(
    store: TokenStore,
    context_length: int,
    batch_size: int,
    limit: int = 0,
    *,
    documents: NDArray[np.uint64] | None = None,
    masked: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The evaluation windows as batches of (inputs, targets), at most batch_size windows of equal length each.

    With ``documents`` the windows are the rows of :class:`DocumentRows`, in order. Targets that do not count are
    IGNORED, as in :class:`Batches`; windows without any other are left out, before the limit spreads over the rest.
    """
    if documents is not None or masked:
        if documents is not None:
            rows = DocumentRows(documents, context_length)
            places, lengths = rows.places(np.arange(len(rows)))
        else:
            windows = list(evaluation_windows(len(store), context_length))
            places, lengths = (np.array(column) for column in zip(*windows, strict=True))
        if masked:  # a window in which nothing counts would only take its time
            wanted = _have_counted(store, places, lengths)
            places, lengths = places[wanted], lengths[wanted]
        if limit and limit < len(places):
            spread = np.arange(limit) * len(places) // limit
            places, lengths = places[spread], lengths[spread]
        for begin in range(0, len(places), batch_size):
            some = slice(begin, begin + batch_size)
            yield padded(store, places[some], lengths[some], context_length, masked=masked)
        return
    starts: list[int] = []
    for start, length in evaluation_windows(len(store), context_length, limit):
        if length < context_length:
            yield _inputs_and_targets(store.gather(np.array([start]), length + 1))
            continue
        starts.append(start)
        if len(starts) == batch_size:
            yield _inputs_and_targets(store.gather(np.array(starts), context_length + 1))
            starts = []
    if starts:
        yield _inputs_and_targets(store.gather(np.array(starts), context_length + 1))


def _have_counted(store: TokenStore, starts: Integers, lengths: Integers) -> NDArray[np.bool_]:
    """Whether any target of each window counts."""
    found = np.zeros(len(starts), np.bool_)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        for begin in range(0, len(rows), _WINDOWS_AT_ONCE):
            some = rows[begin : begin + _WINDOWS_AT_ONCE]
            found[some] = store.gather_counts(starts[some] + 1, int(length)).any(1)
    return found


def get_batch(dataset: NDArray[np.integer], batch_size: int, context_length: int, device: str) -> tuple[Tensor, Tensor]:
    """Uniformly random windows, from torch's global generator (the classical sampler).

    Args:
        dataset: token ids, 1-D; of a memory map only the windows are read.
        device: device of the result, such as "cpu" or "cuda:0".

    Returns:
        x, y: LongTensors ``(batch_size, context_length)``; y is x shifted by one token.

    Raises:
        DataError: the dataset is not 1-D, not of integers, or shorter than context_length + 1.
        RuntimeError, AssertionError: the device does not exist.
    """
    if dataset.ndim != 1 or not np.issubdtype(dataset.dtype, np.integer):
        raise DataError(f"dataset is {dataset.ndim}-D of {dataset.dtype}; expected 1-D integers")
    check_length(len(dataset), context_length)
    starts = torch.randint(len(dataset) - context_length, (batch_size,)).numpy()
    windows = np.stack([dataset[s : s + context_length + 1] for s in starts]).astype(np.int64)
    x, y = _inputs_and_targets(windows)
    return x.to(device), y.to(device)


def check_length(num_tokens: int, context_length: int) -> None:
    """Raise DataError if a dataset is shorter than one sequence and its last target."""
    if num_tokens < context_length + 1:
        raise DataError(
            f"the dataset has {num_tokens} tokens, but one sequence of context_length = {context_length} needs "
            f"{context_length + 1}; use more text or a shorter context"
        )


def permute(places: NDArray[np.uint64], size: int, key: int) -> Integers:
    """A pseudo-random permutation of ``range(size)`` evaluated at ``places``, in constant memory.

    A Feistel network permutes the next power of four. It is applied again to results outside the range, until they are
    inside (cycle walking; Black & Rogaway 2002). Unlike a shuffled array it needs no memory. Unlike a library's shuffle
    it never changes for a given seed.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    result = places.astype(np.uint64)
    outside = np.ones(result.shape, dtype=bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & mask
        for round_ in range(4):
            left, right = right, left ^ (_hash(right, key, round_) & mask)
        result[outside] = (left << half) | right
        outside = result >= size
    return result.astype(np.int64)


def _hash(values: NDArray[np.uint64] | np.uint64, seed: int, stream: int) -> NDArray[np.uint64]:
    """64 well-mixed bits for each value (the finalizer of SplitMix64, Steele et al. 2014, twice)."""
    mixed = np.asarray(values, dtype=np.uint64)
    for salt in (seed, stream):
        with np.errstate(over="ignore"):
            mixed = mixed + np.uint64((salt + 1) * 0x9E3779B97F4A7C15 % 2**64)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def _below(bits: NDArray[np.uint64], bound: int) -> Integers:
    """Map 64 random bits to ``range(bound)`` through 53-bit fractions; the bias is below 2^-53 · bound."""
    fractions = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return (fractions * bound).astype(np.int64)


def _inputs_and_targets(windows: Integers) -> tuple[Tensor, Tensor]:
    tokens = torch.from_numpy(windows)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
