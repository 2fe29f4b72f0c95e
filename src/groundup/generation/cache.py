"""Keys and values of many sequences of different lengths, one row each."""

from __future__ import annotations

from typing import NamedTuple

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
        self._place: Place | None = None
        self.layers = [LayerCache(self) for _ in model.layers]

    @property
    def bytes(self) -> int:
        """Size of all keys and values."""
        return sum(2 * layer.keys.numel() * layer.keys.element_size() for layer in self.layers)

    @property
    def bytes_of_full_row(self) -> int:
        """Size of the keys and values of a row that is as long as the limit, and of one more slot
        (:class:`groundup.generation.compiled.FixedCache`)."""
        config = self._config
        slot = 2 * len(self.layers) * config.kv_heads * config.head_dim * self._dtype.itemsize
        return slot * (self._limit + 1)

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
        self._allocate(rows, capacity)
        self.lengths += [0] * (rows - self.rows)
        self.rows, self.capacity = rows, capacity

    def _allocate(self, rows: int, slots: int) -> None:
        """Make all tensors anew with their content."""
        shape = (rows, self._config.kv_heads, slots, self._config.head_dim)
        for layer in self.layers:
            for name in ("keys", "values"):
                new = torch.zeros(shape, device=self._device, dtype=self._dtype)  # zeros: 0 · NaN would be NaN
                if self.rows:
                    new[: self.rows, :, : self.capacity] = getattr(layer, name)
                setattr(layer, name, new)

    def copy(self, source: int, target: int) -> None:
        """Copy a row."""
        length = self.lengths[target] = self.lengths[source]
        used = min(length, self.capacity)
        for layer in self.layers:
            layer.keys[target, :, :used] = layer.keys[source, :, :used]
            layer.values[target, :, :used] = layer.values[source, :, :used]

    def copied(self, row: int) -> list[tuple[Tensor, Tensor]]:
        """Copies of the keys and values of a row whose ring has not closed, ``(G, S, K)`` for each layer."""
        seen = self.lengths[row]
        return [(layer.keys[row, :, :seen].clone(), layer.values[row, :, :seen].clone()) for layer in self.layers]

    def fill(self, row: int, layers: list[tuple[Tensor, Tensor]]) -> None:
        """Begin a row with copies of other keys and values, ``(G, S, K)`` for each layer."""
        length = layers[0][0].shape[1]
        for layer, (keys, values) in zip(self.layers, layers, strict=True):
            layer.keys[row, :, :length], layer.values[row, :, :length] = keys, values
        self.lengths[row] = length

    def begin(self, rows: slice, tokens: int) -> Tensor:
        """Prepare all layers for ``tokens`` new tokens in each of these rows; returns their positions ``(B, S)``.

        Several tokens at once must fit before the ring closes.
        """
        starts = self.lengths[rows]
        longest = max(starts) + tokens
        assert tokens == 1 or longest <= self.capacity
        positions_BS = torch.tensor(starts, device=self._device)[:, None]
        if tokens > 1:
            positions_BS = positions_BS + torch.arange(tokens, device=self._device)
        is_causal = len(starts) == 1 and (tokens == 1 or starts[0] == 0)
        self._call = rows, positions_BS, min(longest, self.capacity), is_causal
        self._place = None
        self.lengths[rows] = [start + tokens for start in starts]
        return positions_BS

    @property
    def place(self) -> Place:
        """Where all layers write and read in this call; computed when used, since the C++ decoder does without it."""
        if self._place is None:
            rows, positions_BS, seen, is_causal = self._call
            mask = None
            if not is_causal:
                slots_T = torch.arange(seen, device=self._device)
                mask = (slots_T <= positions_BS[..., None])[:, None]  # beyond the capacity every slot is valid
            index_B = torch.arange(rows.start, rows.stop, device=self._device)[:, None]
            self._place = Place(rows, index_B, positions_BS % self.capacity, seen, mask)
        return self._place


class Place(NamedTuple):
    """Slots of one call of the model."""

    rows: slice
    rows_index: Tensor
    """``(B, 1)``."""
    slots: Tensor
    """``(B, S)``, where the new tokens are stored."""
    seen: int
    """Slots that are looked at."""
    mask: Tensor | None
    """``(B, 1, S, T)``, True = attend; None = causal, or all of what there is."""


class LayerCache:
    """The part of one attention layer."""

    length = 0
    """Positions are given to the model, not counted from here."""
    keys: Tensor
    values: Tensor

    def __init__(self, whole: BatchedCache):
        self._whole = whole

    @property
    def mask(self) -> Tensor | None:
        """See :class:`Place`."""
        return self._whole.place.mask

    def append(self, k_BGSK: Tensor, v_BGSK: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values, and return all that are looked at, ``(B, G, T, K)``."""
        place = self._whole.place
        for store, new in ((self.keys, k_BGSK), (self.values, v_BGSK)):
            store.transpose(1, 2)[place.rows_index, place.slots] = new.transpose(1, 2).to(store.dtype)
        return self.keys[place.rows, :, : place.seen], self.values[place.rows, :, : place.seen]
