"""From the batches of a run to micro-batches on its device."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from groundup.config import RunConfig
from groundup.data.batches import Batches
from groundup.data.prefetch import Prefetch
from groundup.data.shards import TokenShards
from groundup.errors import DataError
from groundup.train.preview.profiler import DATA, scope
from groundup.train.ranks.collective import Ranks


class Feed:
    """A rank's inputs and targets of any step, in as many parts as there are passes.

    For a GPU the next step's batch is made beside, in pinned memory, and its copy waits for nobody.
    """

    def __init__(self, config: RunConfig, store: TokenShards, device: str, ranks: Ranks):
        self.config, self.device, self.ranks = config, device, ranks
        self.passes = config.data.passes(ranks.size)
        data = config.data
        self.batches = Batches(store, data.batch_size, config.model.context_length, config.train.seed, data.order)
        self._pinned = device.startswith("cuda")
        self._batch = Prefetch(self._make, ahead=self._pinned)

    def micro_batches(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """``(micro_batch_size, context_length)`` each, of the step with this index, counted from 0.

        Raises:
            DataError: a token id that the model has no row for.
        """
        with scope(DATA):
            x, y = self._batch(index)
        for x_part, y_part in zip(x.chunk(self.passes), y.chunk(self.passes), strict=True):
            yield x_part.to(self.device, non_blocking=True), y_part.to(self.device, non_blocking=True)

    def close(self) -> None:
        """Make no more batches."""
        self._batch.close()

    def _make(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.batches.batch(index, self.ranks.rank, self.ranks.size)
        highest = max(int(x.max()), int(y.max()))
        if highest >= self.config.model.vocab_size:
            raise DataError(
                f"{self.config.data.train} holds the token id {highest}, but model.vocab_size is "
                f"{self.config.model.vocab_size}; the shards have changed or are damaged: encode the text again"
            )
        return (x.pin_memory(), y.pin_memory()) if self._pinned else (x, y)
