"""Log-probabilities of given tokens, many windows at once; and of the documents of files, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundup.display.progress import Silent, Update
from groundup.errors import DataError, TokenizerError, TrainingError
from groundup.generation.engine import special_id
from groundup.nn import TransformerLM
from groundup.nn.fast.loss import row_losses
from groundup.text.batches import DOCUMENT_OVERHEAD
from groundup.text.readers import Piece, TextReader

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer

# Shapes: B windows, S tokens, N scored tokens, D d_model, V vocabulary.

Ids = NDArray[np.integer]
_TOKENS_AT_ONCE = {"cpu": 4096}
_TOKENS_ON_A_DEVICE = 32_768
"""Tokens that go through the model at once, padding included."""
_LOGITS_AT_ONCE = {"cpu": 2**22}
_LOGITS_ON_A_DEVICE = 2**28
_BATCHES_SORTED = 16
"""Batches whose windows are sorted by length together, so that little is padded."""
_BATCH_BYTES = 1 << 20
"""Bytes of documents that are encoded at a time."""


class Window(NamedTuple):
    """Consecutive tokens, of which each is predicted from those before it in the window."""

    ids: Ids
    """The inputs, and the target of the last one: at most one more than the context is long."""
    scored: int
    """Number of targets that are scored: the last ones."""


class Windows:
    """The windows of one document, whose ids may come in parts.

    The first window has the document's first ``context`` targets. Each further one begins half a context before its
    first scored target; the last one ends with the document and is as long as the context. So every target is scored
    once, and sees at least ``context // 2`` tokens before it, or all there are. A part of a long document is held, not
    the whole.
    """

    def __init__(self, context: int):
        self._context = context
        self._held: Ids = np.empty(0, np.uint32)
        self._first = self._done = 0
        """Place of the first id that is held, and of the last target that is scored."""

    def feed(self, ids: Ids) -> Iterator[Window]:
        """The windows that no further token can change."""
        self._held = np.concatenate([self._held, ids]) if len(self._held) else ids
        context, end = self._context, self._first + len(self._held)
        while (begin := max(0, self._done - context // 2)) + context + 1 <= end:
            yield self._window(begin, begin + context)
        keep = max(0, self._done - context)
        self._held, self._first = self._held[keep - self._first :], keep

    def finish(self) -> Iterator[Window]:
        """The last window. Then another document may follow."""
        last = self._first + len(self._held) - 1
        if last > self._done:
            yield self._window(max(0, min(self._done - self._context // 2, last - self._context)), last)
        self._held, self._first, self._done = self._held[:0], 0, 0

    def _window(self, begin: int, last: int) -> Window:
        """The window of the inputs from ``begin`` on, whose last target is ``last``."""
        scored, self._done = last - self._done, last
        return Window(self._held[begin - self._first : last + 1 - self._first], scored)


class Scored(NamedTuple):
    """What a model makes of the scored targets of a window."""

    nats: NDArray[np.float32]
    """Negative log-probability of each."""
    greedy: NDArray[np.bool_] | None
    """Whether each is the most probable token; None unless it was asked for."""


@torch.inference_mode()
def score(model: TransformerLM, windows: Sequence[Window], *, greedy: bool = False) -> list[Scored]:
    """Score windows, in batches of similar length; the result is in the order of the windows.

    What is the beginning of another window's inputs is not computed twice: of several answers of one token to the same
    question, the question is computed once.

    Args:
        model: in evaluation mode.
        greedy: find out, too, whether each target is the most probable token.

    Raises:
        TokenizerError: an id outside the model's vocabulary.
        TrainingError: the model's logits are not finite.
    """
    found: dict[int, Scored] = {}
    device = model.token_embeddings.weight.device
    most = _TOKENS_AT_ONCE.get(device.type, _TOKENS_ON_A_DEVICE)
    rows = _rows(windows)
    for batch in _batches([len(windows[row[0]].ids) - 1 for row in rows], most):
        some = [rows[i] for i in batch]
        nats_N, greedy_N = _scored(model, windows, some, device, greedy=greedy)
        start = 0
        for place in (place for row in some for place in row):
            here = slice(start, start := start + windows[place].scored)
            found[place] = Scored(nats_N[here], None if greedy_N is None else greedy_N[here])
    return [found[place] for place in range(len(windows))]


def _rows(windows: Sequence[Window]) -> list[list[int]]:
    """Windows that are computed together: the first one's inputs begin with those of each other."""
    keys = [window.ids[:-1].astype(">u4").tobytes() for window in windows]
    rows: list[list[int]] = []
    # What begins with a key follows it in this order.
    for place in sorted(range(len(windows)), key=keys.__getitem__, reverse=True):
        if rows and keys[rows[-1][0]].startswith(keys[place]):
            rows[-1].append(place)
        else:
            rows.append([place])
    return rows


def _batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices of sequences in batches of at most ``most`` tokens with their padding, the longest first."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > most:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _scored(
    model: TransformerLM, windows: Sequence[Window], rows: Sequence[list[int]], device: torch.device, *, greedy: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Losses of the scored targets of the rows' windows, one after the other; and whether each is the most probable."""
    width = max(len(windows[row[0]].ids) for row in rows) - 1
    x = np.zeros((len(rows), width), np.int64)  # padded at the end, where nothing before it looks
    where, targets = list[NDArray[np.int64]](), list[Ids]()
    for number, row in enumerate(rows):
        inputs = windows[row[0]].ids[:-1]
        x[number, : len(inputs)] = inputs
        for place in row:
            ids, scored = windows[place]
            where.append(number * width + np.arange(len(ids) - 1 - scored, len(ids) - 1))
            targets.append(ids[len(ids) - scored :])
    targets_N = torch.from_numpy(np.concatenate(targets).astype(np.int64))
    largest = max(int(x.max()), int(targets_N.max()))
    if largest >= model.vocab_size:
        raise TokenizerError(
            f"the text has the token id {largest}, but the model's vocabulary has {model.vocab_size}; they do not "
            f"belong together: choose the model's own tokenizer"
        )
    hidden_BSD = model.hidden(torch.from_numpy(x).to(device))
    hidden_ND = hidden_BSD.flatten(0, 1)[torch.from_numpy(np.concatenate(where)).to(device)]
    targets_N = targets_N.to(device)
    step = max(1, _LOGITS_AT_ONCE.get(device.type, _LOGITS_ON_A_DEVICE) // model.vocab_size)
    nats, flags = list[Tensor](), list[Tensor]()
    for start in range(0, len(hidden_ND), step):
        some = slice(start, start + step)
        logits_NV = model.logits(hidden_ND[some])
        if greedy:
            flags.append(logits_NV.argmax(-1) == targets_N[some])
        nats.append(row_losses(logits_NV, targets_N[some], None, 1))
    nats_N: NDArray[np.float32] = torch.cat(nats).float().cpu().numpy()
    if not np.isfinite(nats_N).all():
        raise TrainingError(
            "the model's log-probabilities are not finite: its weights have diverged; use an earlier checkpoint"
        )
    return nats_N, torch.cat(flags).cpu().numpy() if greedy else None


@dataclass(frozen=True)
class TextScore:
    """What a model makes of text."""

    loss: float
    """Mean nats per scored token."""
    tokens: int
    """Number of scored tokens."""
    bytes: int
    """UTF-8 bytes of the scored text."""
    documents: int
    """Number of documents; empty ones do not count."""
    not_scored: int = 0
    """Bytes of the first tokens of documents, where nothing stands before them."""

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700))

    @property
    def bits_per_byte(self) -> float:
        """Total nats in bits, over the bytes; comparable between tokenizers."""
        return self.loss * self.tokens / math.log(2) / self.bytes


def score_text(
    model: TransformerLM,
    tokenizer: Tokenizer,
    reader: TextReader,
    *,
    begin_token: str = "",
    limit: int = 0,
    progress: Update | None = None,
) -> TextScore:
    """Score the documents of a reader, in bounded memory, however long they are.

    Each document stands after the token that begins one, and is scored in :class:`Windows`. Its end is not scored.
    Names of special tokens in it are text. Without a token that begins documents, the first token of each has nothing
    to be predicted from: neither its nats nor its bytes count.

    Args:
        begin_token: special token that begins documents; ignored where the tokenizer does not have it.
        limit: bytes of text after which to stop, in the middle of a document too; 0 reads all.
        progress: called after each batch.

    Raises:
        DataError: as the reader; or no token can be scored.
        TokenizerError: the tokenizer and the model do not belong together.
        TrainingError: the model's logits are not finite.
    """
    begin = special_id(tokenizer, begin_token)
    documents = _Documents(tokenizer, begin, model.context_length)
    device = model.token_embeddings.weight.device.type
    enough = _BATCHES_SORTED * _TOKENS_AT_ONCE.get(device, _TOKENS_ON_A_DEVICE)
    sums, tokens, held, size = list[float](), 0, list[Window](), 0
    show = progress or Silent()

    def finish_held() -> None:
        nonlocal tokens, size
        for scored in score(model, held):
            sums.append(float(scored.nats.sum(dtype=np.float64)))
            tokens += len(scored.nats)
        sums[:] = [math.fsum(sums)]
        held.clear()
        size = 0
        bits = sums[0] / math.log(2) / max(documents.bytes - documents.not_scored, 1)
        done, total = (documents.bytes, limit) if limit else (reader.bytes_read, reader.bytes_total)
        show("scoring", done, total, f"{bits:.4f} bits/byte")

    with closing(iter(reader)) as pieces:
        for window in documents.windows(_limited(pieces, limit) if limit else pieces):
            held.append(window)
            size += len(window.ids)
            if size >= enough:
                finish_held()
    if held:
        finish_held()
    if not tokens:
        raise DataError(
            f"no token of the text has one before it to predict it from (bytes: {documents.bytes}); give more text"
        )
    scored_bytes = documents.bytes - documents.not_scored
    return TextScore(sums[0] / tokens, tokens, scored_bytes, documents.count, documents.not_scored)


class _Documents:
    """The windows of documents, many short ones encoded at once, a long one in parts."""

    def __init__(self, tokenizer: Tokenizer, begin: int | None, context: int):
        self._tokenizer, self._begin, self._windows = tokenizer, begin, Windows(context)
        self.bytes = self.count = self.not_scored = 0

    def windows(self, pieces: Iterable[Piece]) -> Iterator[Window]:
        batch: list[bytes] = []
        size = 0
        rest = iter(pieces)
        for data, ends_document in rest:
            if ends_document and not data:
                continue
            self.count += 1
            if ends_document:
                batch.append(data)
                size += len(data) + DOCUMENT_OVERHEAD
            if not ends_document or size >= _BATCH_BYTES:
                yield from self._short(batch)
                batch, size = [], 0
            if not ends_document:
                yield from self._long(data, rest)
        yield from self._short(batch)

    def _short(self, batch: list[bytes]) -> Iterator[Window]:
        if not batch:
            return
        ids, ends = self._tokenizer.encode_batch_to_numpy(batch, allowed_special="none", num_threads=None)
        start = 0
        for document, end in zip(batch, ends.tolist(), strict=True):
            self.bytes += len(document)
            yield from self._started(ids[start:end])
            yield from self._windows.finish()
            start = end

    def _long(self, data: bytes, rest: Iterator[Piece]) -> Iterator[Window]:
        stream = self._tokenizer.stream(allowed_special="none")
        ends_document, is_started = False, False
        while True:
            self.bytes += len(data)
            parts = [stream.feed(data), stream.finish()] if ends_document else [stream.feed(data)]
            for ids in parts:
                if len(ids):
                    yield from self._windows.feed(ids) if is_started else self._started(ids)
                    is_started = True
            if ends_document:
                break
            data, ends_document = next(rest)
        yield from self._windows.finish()

    def _started(self, ids: Ids) -> Iterator[Window]:
        """The windows of the beginning of a document."""
        if self._begin is not None:
            return self._windows.feed(np.concatenate([[self._begin], ids]))
        if len(ids):
            first = len(self._tokenizer.vocab[int(ids[0])]) - self._tokenizer.prefix_length
            self.not_scored += max(first, 0)
        return self._windows.feed(ids)


def _limited(pieces: Iterable[Piece], limit: int) -> Generator[Piece, None, None]:
    """The first bytes of the text, cut between two characters."""
    for data, ends_document in pieces:
        if len(data) >= limit:
            end = limit
            while end > max(limit - 3, 0) and end < len(data) and data[end] & 0xC0 == 0x80:
                end -= 1
            yield Piece(data[:end], True)
            return
        yield Piece(data, ends_document)
        limit -= len(data)
