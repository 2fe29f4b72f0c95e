"""Keys and values of finished texts, for prompts that begin as they do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from groundup.generation.cache import BatchedCache

_LEAST = 8
"""Tokens from which on a common beginning is copied: fewer are computed as fast, together with other prompts."""


class Kept(NamedTuple):
    """A finished text."""

    ids: tuple[int, ...]
    layers: list[tuple[Tensor, Tensor]]
    """Keys and values of its tokens, ``(G, S, K)`` for each layer."""


class KeptTexts:
    """The last finished texts, the one that was used last at the end.

    Args:
        most: number of texts; each takes as much memory as its tokens take in the cache.
    """

    def __init__(self, most: int):
        self.most = most
        self._texts: list[Kept] = []

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def bytes(self) -> int:
        """Size of all keys and values."""
        return sum(part.numel() * part.element_size() for text in self._texts for pair in text.layers for part in pair)

    def add(self, cache: BatchedCache, row: int, ids: Sequence[int]) -> None:
        """Keep a row of the cache, which has seen these tokens or some of them.

        Nothing is kept of a row whose ring has closed: its first tokens are overwritten.
        """
        seen = cache.lengths[row]
        if not self.most or not _LEAST <= seen <= cache.capacity:
            return
        found = tuple(ids[:seen])
        known = next((text for text in self._texts if text.ids[:seen] == found), None)
        if known is not None:
            self._use(known)
            return
        others = [text for text in self._texts if found[: len(text.ids)] != text.ids]  # it continues those
        self._texts = others[max(0, len(others) + 1 - self.most) :]  # before the copy: no more at any time
        self._texts.append(Kept(found, cache.copied(row)))

    def longest(self, prompt_ids: Sequence[int]) -> tuple[Kept | None, int]:
        """The text with the longest beginning in common, and the number of these tokens; None if there are too few.

        The last token of the prompt is not among them: it has to be computed, for the logits after it.
        """
        best, length = None, _LEAST - 1
        for text in reversed(self._texts):
            same = _common(text.ids, prompt_ids[:-1])
            if same > length:
                best, length = text, same
        return best, 0 if best is None else length

    def restore(self, kept: Kept, length: int, cache: BatchedCache, row: int) -> None:
        """Make the first tokens of a text those of a row."""
        cache.fill(row, [(keys[:, :length], values[:, :length]) for keys, values in kept.layers])
        self._use(kept)

    def _use(self, kept: Kept) -> None:
        self._texts = [*(text for text in self._texts if text is not kept), kept]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of tokens at the beginning in which two sequences agree."""
    if a[:_LEAST] != b[:_LEAST]:  # most do not
        return 0
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
