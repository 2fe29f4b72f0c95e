"""Budget of a plan: the steps, tokens, FLOPs or minutes that are the same for every trial."""

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
    """The same amount for every trial."""

    fixed: Literal["steps", "tokens", "flops", "minutes"]
    """The unit."""
    amount: float
    """Number of units. Minutes are wall-clock time: the schedule ends within them (train.finish_schedule), or at
    train.max_iters if the run reaches them earlier."""

    def __post_init__(self) -> None:
        if not 0 < self.amount < math.inf:
            raise ConfigError(f"budget.amount = {self.amount!r}; expected a positive, finite number")

    @property
    def sets(self) -> str:
        """The option that the budget sets."""
        return "train.max_minutes" if self.fixed == "minutes" else "train.max_iters"

    def needs(self, option: str) -> bool:
        """Whether the number of steps depends on an option."""
        if self.fixed == "flops":
            return option == _BATCH or option.startswith(MODEL)
        return self.fixed == "tokens" and option in (_BATCH, _CONTEXT)

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options that the budget sets for a trial with these options; steps are rounded, to at least one.

        Raises:
            ConfigError, FileMissingError: a budget in FLOPs, and the vocabulary size is unknown.
        """
        if options.get("train.minutes"):
            raise ConfigError(
                f"train.minutes = {options['train.minutes']:g} is a length beside the plan's budget of {self.amount:g} "
                f"{self.fixed}; leave one of them out"
            )
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
    """The vocabulary size of a model: model.vocab_size, or the size of its data's tokenizer if that is 0.

    Raises:
        ConfigError: neither is known.
        FileMissingError: the data does not exist yet.
    """
    if vocab_size:
        return vocab_size
    found = TokenShards.open(data).vocab_size if data else None
    if found is None:
        raise ConfigError(f"model.vocab_size = 0 takes the tokenizer's, but data.train = {data!r} has none; set it")
    return found


def shortened_warmup(warmup: int, planned: int, steps: int) -> int:
    """Warm-up steps of a run that the budget shortens: the same share of the run as planned, at least one step."""
    if steps >= planned or warmup == 0:
        return warmup
    return max(1, round(warmup * steps / planned))
