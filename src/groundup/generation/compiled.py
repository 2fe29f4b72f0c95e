"""The decoder step as one function compiled by torch, with static shapes: one token of each row through the model.

Rows are rounded up to a power of two, and the keys and values of a row have room for the whole context from the start,
so that each number of rows is compiled once. On CUDA a step is then one launch of a recorded graph
(``mode="reduce-overhead"``), for which all tensors stay at their addresses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from groundup.errors import ConfigError
from groundup.generation.cache import BatchedCache
from groundup.nn import RotaryPositionalEmbedding, TransformerLM

# Shapes: B rows of a step, rounded up; R rows in all; G heads of keys and values, C slots of a row, K head size, V
# vocabulary.


class FixedCache(BatchedCache):
    """A cache whose tensors never move: all rows with all slots, and one more slot that nothing reads."""

    def __init__(self, model: TransformerLM, *, limit: int, rows: int):
        super().__init__(model, limit=limit, most_rows=rows)
        self._allocate(rows, limit + 1)
        self.lengths, self.rows, self.capacity = [0] * rows, rows, limit
        for layer in self.layers:
            for tensor in (layer.keys, layer.values):
                torch._dynamo.mark_static_address(tensor)


class CompiledStep:
    """A model's step with the rows of a :class:`FixedCache`, compiled for each number of rows when it first occurs.

    Args:
        model: in evaluation mode; its weights are shared.
        cache: holds the rows; its lengths grow with each step.

    Raises:
        ConfigError: torch cannot compile the model here.
    """

    def __init__(self, model: TransformerLM, cache: FixedCache):
        self._cache = cache
        weight = model.token_embeddings.weight
        # Its own modules around the same tensors: the tables of its rotary embeddings hold the rows' angles only, since
        # those of all positions grow as texts slide.
        shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self._angles = [
            RowAngles(part, cache.rows) for part in model.modules() if isinstance(part, RotaryPositionalEmbedding)
        ]
        shared |= {id(angles.whole[0]): angles for angles in self._angles}
        self._model: TransformerLM = copy.deepcopy(model, shared)
        self._inputs: dict[int, Tensor] = {}
        self._steps: dict[int, Callable[[Tensor], Tensor]] = {}
        self._device = weight.device
        try:
            self.step([])  # of no text: it tells now whether the model can be compiled
        except Exception as error:  # whatever compilers, drivers and torch itself raise
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ConfigError(
                f"torch.compile does not work here ({reason.strip()[:160]}); leave out --compile, or install what it "
                "needs"
            ) from None
        if self._device.type == "cuda":
            self._steps.clear()  # recorded graphs belong to a thread: another one may call the next step

    @torch.inference_mode()
    def step(self, ids: list[int]) -> Tensor:
        """Logits ``(B, V)`` after one more token of each of the first rows."""
        live, rows = len(ids), self.rounded(len(ids))
        spare = rows - live  # rows of no text write to the slot that nothing reads
        positions, capacity = self._cache.lengths[:live], self._cache.capacity
        self._cache.lengths[:live] = [position + 1 for position in positions]
        slots = [position % capacity for position in positions] + [capacity] * spare
        values = torch.tensor([ids + [0] * spare, positions + [0] * spare, slots])
        if rows not in self._steps:
            self._inputs[rows] = torch.zeros(3, rows, dtype=torch.long, device=self._device)
            torch._dynamo.mark_static_address(self._inputs[rows])
            self._steps[rows] = self._compiled(rows)
        inputs_3B = self._inputs[rows]
        inputs_3B.copy_(values)
        for angles in self._angles:
            angles.whole[0].extend(max(positions, default=0) + 1)  # as a text slides
            angles.look_up(inputs_3B[1])
        if self._device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()  # the last logits have been read
        return self._steps[rows](inputs_3B)[:live]

    def rounded(self, rows: int) -> int:
        """Number of rows that a step with this many texts computes."""
        return min(1 << max(rows - 1, 0).bit_length(), self._cache.rows)

    def _compiled(self, rows: int) -> Callable[[Tensor], Tensor]:
        def step(inputs_3B: Tensor) -> Tensor:
            ids_B, positions_B, slots_B = inputs_3B
            mask_B11C = torch.arange(self._cache.capacity, device=ids_B.device) <= positions_B[:, None, None, None]
            layers = [StaticLayer(layer.keys, layer.values, slots_B, mask_B11C) for layer in self._cache.layers]
            logits_B1V: Tensor = self._model(ids_B[:, None], positions_B[:, None], layers)
            return logits_B1V[:, 0]

        # Its own code for each number of rows and model: torch counts the compilations of each piece of code.
        step.__code__ = step.__code__.replace(co_name=f"step_of_{rows}_rows")
        mode = "reduce-overhead" if self._device.type == "cuda" else None
        return torch.compile(step, fullgraph=True, dynamic=False, mode=mode)


class StaticLayer:
    """What an attention layer is given: see :class:`groundup.generation.cache.LayerCache`."""

    length = 0

    def __init__(self, keys: Tensor, values: Tensor, slots_B: Tensor, mask: Tensor):
        self._keys, self._values, self._slots_B, self.mask = keys, values, slots_B, mask

    def append(self, k_BG1K: Tensor, v_BG1K: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values, and return all slots ``(B, G, C, K)``; the mask says which count."""
        rows = len(self._slots_B)
        rows_B = torch.arange(rows, device=self._slots_B.device)
        for store, new in ((self._keys, k_BG1K), (self._values, v_BG1K)):
            store[rows_B, :, self._slots_B] = new[:, :, 0].to(store.dtype)
        capacity = self.mask.shape[-1]
        return self._keys[:rows, :, :capacity], self._values[:rows, :, :capacity]


class RowAngles(RotaryPositionalEmbedding):
    """A rotary embedding whose tables have the angles of each row's position.

    Attributes:
        whole: the embedding with the angles of all positions, in a tuple, since it is no part of this module.
    """

    def __init__(self, whole: RotaryPositionalEmbedding, rows: int):
        torch.nn.Module.__init__(self)
        self.whole = (whole,)
        self.theta, self.d_k, self.max_seq_len, self.config = whole.theta, whole.d_k, rows, whole.config
        for name in ("cos", "sin"):
            table = getattr(whole, name)
            self.register_buffer(name, table.new_zeros(rows, *table.shape[1:]), persistent=False)

    def look_up(self, positions_B: Tensor) -> None:
        """Take the angles of these positions."""
        for table, whole in ((self.cos, self.whole[0].cos), (self.sin, self.whole[0].sin)):
            table[: len(positions_B)] = whole[positions_B]

    def forward(self, x: Tensor, token_positions: Tensor | None = None) -> Tensor:
        """Rotate ``x (B, heads, 1, d_k)``, each row by its angles."""
        return super().forward(x, torch.arange(len(x), device=x.device)[:, None, None])
