"""Rank and world size of this process, from the environment variables of ``torchrun``. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """Place of this process among the ranks of a job. A process that was not started by torchrun is rank 0 of 1."""

    rank: int = 0
    """Rank of the process in the job, from 0."""
    ranks: int = 1
    """World size: number of ranks on all machines."""
    local_rank: int = 0
    """Rank of the process on its machine; also the index of its GPU."""
    local_ranks: int = 1
    """Number of ranks on this machine."""
    by_torchrun: bool = False
    """Whether torchrun started the process."""
    restarts: int = 0
    """How often torchrun has restarted the job."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Launch:
        """Read torchrun's variables; if one of them is missing, return rank 0 of 1."""
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
        """Whether this process writes the record and prints."""
        return self.rank == 0

    @property
    def is_first_here(self) -> bool:
        """Whether this process prints for its machine before the process group exists."""
        return self.local_rank == 0
