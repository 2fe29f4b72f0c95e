"""What is held fixed over the cells of a plan: steps, tokens, FLOPs or minutes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from groundup.account import training_flops_per_token
from groundup.config import ModelConfig, from_dict
from groundup.data.shards import TokenShards
from groundup.errors import ConfigError

MODEL = "model."
_BATCH, _CONTEXT = "data.batch_size", "model.context_length"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The same amount for every cell."""

    fixed: Literal["steps", "tokens", "flops", "minutes"]
    """What there is the same amount of."""
    amount: float
    """How much. Minutes are of the clock: the schedule is finished by then (train.finish_schedule), or at
    train.max_iters if the run comes to them first."""

    def __post_init__(self) -> None:
        if not 0 < self.amount < math.inf:
            raise ConfigError(f"budget.amount = {self.amount!r}; expected a positive, finite number")

    @property
    def sets(self) -> str:
        """The option that it decides."""
        return "train.max_minutes" if self.fixed == "minutes" else "train.max_iters"

    def needs(self, option: str) -> bool:
        """Whether the number of steps depends on an option."""
        if self.fixed == "flops":
            return option == _BATCH or option.startswith(MODEL)
        return self.fixed == "tokens" and option in (_BATCH, _CONTEXT)

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What it sets, for a cell with these options: at least one step, and otherwise the nearest number of them.

        Raises:
            ConfigError, FileMissingError: FLOPs of a model whose vocabulary is not known.
        """
        if self.fixed == "minutes":
            return {"train.max_minutes": float(self.amount), "train.finish_schedule": True}
        return {"train.max_iters": max(1, round(self.amount / self._amount_of_a_step(options)))}

    def _amount_of_a_step(self, options: Mapping[str, Any]) -> float:
        if self.fixed == "steps":
            return 1
        tokens = options[_BATCH] * options[_CONTEXT]
        if self.fixed == "tokens":
            return float(tokens)
        shape = {name.removeprefix(MODEL): value for name, value in options.items() if name.startswith(MODEL)}
        shape["vocab_size"] = known_vocabulary(shape["vocab_size"], options["data.train"])
        return tokens * training_flops_per_token(from_dict(ModelConfig, shape, place="model"))


def known_vocabulary(vocab_size: int, data: str) -> int:
    """Rows of a model's embedding: as it says, or as many as its data's tokenizer has ids.

    Raises:
        ConfigError: neither of both says.
        FileMissingError: the data is not there yet.
    """
    if vocab_size:
        return vocab_size
    found = TokenShards.open(data).vocab_size if data else None
    if found is None:
        raise ConfigError(f"model.vocab_size = 0 takes the tokenizer's, but data.train = {data!r} has none; set it")
    return found


def shortened_warmup(warmup: int, planned: int, steps: int) -> int:
    """Steps of warm-up of a run that the budget makes shorter than planned: the same share of it, at least one step."""
    if steps >= planned or warmup == 0:
        return warmup
    return max(1, round(warmup * steps / planned))
