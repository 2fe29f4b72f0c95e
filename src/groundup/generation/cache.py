"""Keys and values of many sequences of different lengths, one row each."""

from __future__ import annotations

import torch
from torch import Tensor

from groundup.nn import TransformerLM

# Shapes: R rows, B rows of this call, G heads of keys and values, S new tokens, T slots that are looked at, C capacity,
# K head size.


class BatchedCache:
    """A ring of ``capacity`` slots for each row: position p lies in slot p mod capacity.

    While a sequence fits, its attention is causal over all of it. Beyond, each token attends to the last ``capacity``
    positions, itself included: sliding-window attention. Keys are stored rotated by their absolute positions; RoPE's
    scores depend on distances only, so nothing is ever rotated again.

    Rows and capacity grow when they are needed (:meth:`reserve`).

    Args:
        limit: most slots of a row.
        most_rows: where doubling the rows ends.

    Attributes:
        lengths: tokens that each row has seen.
        layers: what the attention layers are given, one each.
    """

    def __init__(self, model: TransformerLM, *, limit: int, most_rows: int | None = None):
        self._config, self._limit, self._most_rows = model.config, limit, most_rows
        weight = model.token_embeddings.weight
        self._device, self._dtype = weight.device, model.compute_dtype or weight.dtype
        self.rows = self.capacity = 0
        self.lengths: list[int] = []
        self.layers = [LayerCache() for _ in model.layers]

    @property
    def bytes(self) -> int:
        """Size of all keys and values."""
        return sum(2 * layer.keys.numel() * layer.keys.element_size() for layer in self.layers)

    @property
    def bytes_of_full_row(self) -> int:
        """Size of the keys and values of a row that is as long as the limit."""
        config = self._config
        slot = 2 * len(self.layers) * config.kv_heads * config.head_dim * self._dtype.itemsize
        return slot * self._limit

    def reserve(self, rows: int, capacity: int) -> None:
        """Make room for this many rows and slots, each at least doubled when it grows, slots up to the limit."""
        capacity = min(capacity, self._limit)
        if rows <= self.rows and capacity <= self.capacity:
            return
        if rows > self.rows:
            rows = max(rows, min(2 * self.rows, self._most_rows or 2 * self.rows))
        if capacity > self.capacity:
            capacity = min(max(capacity, 2 * self.capacity, 64), self._limit)
        rows, capacity = max(rows, self.rows), max(capacity, self.capacity)
        shape = (rows, self._config.kv_heads, capacity, self._config.head_dim)
        for layer in self.layers:
            for name in ("keys", "values"):
                new = torch.zeros(shape, device=self._device, dtype=self._dtype)  # zeros: 0 · NaN would be NaN
                if self.rows:
                    new[: self.rows, :, : self.capacity] = getattr(layer, name)
                setattr(layer, name, new)
        self.lengths += [0] * (rows - self.rows)
        self.rows, self.capacity = rows, capacity

    def copy(self, source: int, target: int) -> None:
        """Copy a row."""
        length = self.lengths[target] = self.lengths[source]
        used = min(length, self.capacity)
        for layer in self.layers:
            layer.keys[target, :, :used] = layer.keys[source, :, :used]
            layer.values[target, :, :used] = layer.values[source, :, :used]

    def begin(self, rows: slice, tokens: int) -> Tensor:
        """Prepare all layers for ``tokens`` new tokens in each of these rows; returns their positions ``(B, S)``.

        Several tokens at once must fit before the ring closes.
        """
        starts = torch.tensor(self.lengths[rows], device=self._device)
        positions_BS = starts[:, None] + torch.arange(tokens, device=self._device)
        longest = max(self.lengths[rows]) + tokens
        assert tokens == 1 or longest <= self.capacity
        seen = min(longest, self.capacity)
        mask = None
        alone = rows.stop - rows.start == 1
        if not (alone and (tokens == 1 or self.lengths[rows.start] == 0)):  # else causal, or all of what there is
            slots_T = torch.arange(seen, device=self._device)
            mask = (slots_T <= positions_BS[..., None])[:, None]  # beyond the capacity every slot is valid
        for layer in self.layers:
            layer.begin(rows, positions_BS % self.capacity, seen, mask)
        for row in range(rows.start, rows.stop):
            self.lengths[row] += tokens
        return positions_BS


class LayerCache:
    """The part of one attention layer."""

    length = 0
    """Positions are given to the model, not counted from here."""
    keys: Tensor
    values: Tensor
    mask: Tensor | None
    """``(B, 1, S, T)``, True = attend; None = causal."""

    def begin(self, rows: slice, slots_BS: Tensor, seen: int, mask: Tensor | None) -> None:
        """Where :meth:`append` writes, and what it returns."""
        self._rows, self._slots_BS, self._seen, self.mask = rows, slots_BS, seen, mask
        self._index_B = torch.arange(rows.start, rows.stop, device=slots_BS.device)[:, None]

    def append(self, k_BGSK: Tensor, v_BGSK: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values, and return all that are looked at, ``(B, G, T, K)``."""
        for store, new in ((self.keys, k_BGSK), (self.values, v_BGSK)):
            store.transpose(1, 2)[self._index_B, self._slots_BS] = new.transpose(1, 2).to(store.dtype)
        return self.keys[self._rows, :, : self._seen], self.values[self._rows, :, : self._seen]
