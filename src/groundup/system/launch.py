"""What ``torchrun`` tells each of the processes that it starts; needs no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """The place of this process among those that train one model together. Alone: rank 0 of 1."""

    rank: int = 0
    """Number of the process among all, from 0."""
    ranks: int = 1
    """How many there are, on all machines together."""
    local_rank: int = 0
    """Number of the process among those of its machine, which is also the number of its GPU."""
    local_ranks: int = 1
    """How many there are on this machine."""
    by_torchrun: bool = False
    """Whether torchrun started it, even if alone."""
    restarts: int = 0
    """How often torchrun has started the job again."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Launch:
        """As torchrun's variables say; without all of them the process is alone."""
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
            return cls()
        return cls(
            rank=int(environment["RANK"]),
            ranks=int(environment["WORLD_SIZE"]),
            local_rank=int(environment.get("LOCAL_RANK", environment["RANK"])),
            local_ranks=int(environment.get("LOCAL_WORLD_SIZE", "1")),
            by_torchrun=True,
            restarts=int(environment.get("TORCHELASTIC_RESTART_COUNT", "0")),
        )

    @property
    def is_main(self) -> bool:
        """Whether this process writes the record and talks to the user."""
        return self.rank == 0

    @property
    def is_first_here(self) -> bool:
        """Whether this process speaks for its machine, as long as the processes have not met."""
        return self.local_rank == 0
