"""What a run has to remember, beside weights and optimizer, to go on as if it had never stopped."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrainState:
    """Counters of a run. Batches and samples are functions of seed and step, so no random state is among them."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    """Tokens trained on."""
    wall_seconds: float = 0.0
    """Time of the run so far, over all its sittings."""
    train_seconds: float = 0.0
    """The part of it spent in training steps, without evaluation, samples and checkpoints."""
    best_val_loss: float | None = None
    best_step: int | None = None
    pending_losses: list[float] = field(default_factory=list)
    """Losses of the steps since the last line of metrics, whose mean the next line reports."""
    recent_loss: float | None = None
    """Average of the latest losses, by which a spike is known; None before the first step."""
    spiking: bool = False
    """Whether the latest loss was far above that average."""
    progress: float = 0.0
    """How far the schedule had come, in [0, 1], in a run that follows the clock (train.finish_schedule)."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``state.json``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainState:
        """The state in ``state.json``, whose other entries are left alone.

        A field that came later than the checkpoint has its default; only the counters must be there.

        Raises:
            KeyError: a counter is missing.
        """
        known = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
        return cls(**known | {name: values[name] for name in ("step", "tokens")})
