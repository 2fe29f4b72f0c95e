"""Ranks: the processes that ``torchrun`` starts to train one model, and their barriers, broadcasts and all-reduces.

Before and after training they communicate through torchrun's key-value store, which outlives each of them and stays
consistent if one fails. During training they all-reduce tensors (gloo on the CPU, NCCL between GPUs).

:class:`Ranks` itself is the case of one process; it communicates with no other.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from groundup.errors import ConfigError, GroundupError
from groundup.system.launch import Launch
from groundup.train.ranks.failures import AnotherRankError, lingering, parting
from groundup.train.ranks.rendezvous import name_of_this_start

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

    from groundup.record.run import RunDirectory

TIMEOUT = timedelta(minutes=30)
"""Longest wait for a rank, which may be writing a checkpoint to a slow disk."""

_LAST_PATIENCE = 5.0
"""Seconds that the first rank waits for the others to leave first."""


@dataclass(frozen=True)
class Intent:
    """One rank's view before a step; combined, all ranks make the same decision."""

    signal: int = 0
    """The signal it has received, 0 for none."""
    time_is_up: bool = False
    """The session is to end; the first rank decides."""
    progress: float = 0.0
    """Share of the schedule that is done, in [0, 1]; the first rank decides."""
    damaged: bool = False
    """Its token shards have changed."""
    save: bool = False
    """A checkpoint is due (train.checkpoint_minutes); the first rank decides."""


class Ranks:
    """The only process of a run; base of :class:`ManyRanks`.

    Attributes:
        rank, size: index of this process, and number of processes.
        is_main: whether it writes the record and talks to the user.
    """

    def __init__(self, launch: Launch | None = None):
        self.launch = launch or Launch()
        self.rank, self.size, self.is_main = self.launch.rank, self.launch.ranks, self.launch.is_main

    def device(self, name: str) -> str:
        """Return the device of this rank, given the name that all ranks share."""
        return name

    @contextmanager
    def error_barrier(self) -> Iterator[None]:
        """Run a block, then a barrier. If a rank raises a :class:`GroundupError` in the block, all ranks raise.

        Raises:
            AnotherRankError: another rank has raised.
        """
        yield

    def barrier(self) -> None:
        """Wait for all ranks; raise as :meth:`error_barrier` does.

        Call it before an exchange of tensors that a failed rank would block.
        """

    def broadcast(self, value: Any) -> Any:
        """Return the first rank's value (JSON) on all ranks."""
        return value

    def all_gather(self, value: Any) -> list[Any]:
        """Return the values (JSON) of all ranks, in rank order."""
        return [value]

    def all_reduce_intent(self, own: Intent) -> Intent:
        """Combine the intents of all ranks: signals and damage of any rank, the clock of the first."""
        return own

    def all_reduce_signal(self, own: int) -> int:
        """Return the signal that any rank has received, 0 for none."""
        return own

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """Return the mean of a scalar over all ranks."""
        return value

    def all_reduce_sum(self, values: list[float]) -> list[float]:
        """Return the element-wise sum over all ranks."""
        return values


class ManyRanks(Ranks):
    """One process of several.

    Args:
        store: key-value store that all can read and write.
    """

    def __init__(self, launch: Launch, store: Store):
        super().__init__(launch)
        self._store = store
        self._barriers = self._broadcasts = 0

    def device(self, name: str) -> str:
        """Return this rank's GPU: number local_rank of its machine.

        Raises:
            ConfigError: one device for all ranks, or fewer GPUs than ranks.
        """
        if name.startswith("cuda:"):
            raise ConfigError(
                f"train.device = {name!r} is one device for {self.size} ranks; "
                f'set it to "cuda", and every rank takes its own'
            )
        if name == "mps":
            raise ConfigError(f'train.device = "mps" cannot be shared by {self.size} ranks; set it to "cpu"')
        if name != "cuda":
            return name
        if self.launch.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"rank {self.rank} finds {torch.cuda.device_count()} GPUs on its machine and needs number "
                f"{self.launch.local_rank}; start one rank a GPU with --nproc-per-node"
            )
        torch.cuda.set_device(self.launch.local_rank)
        return f"cuda:{self.launch.local_rank}"

    @contextmanager
    def error_barrier(self) -> Iterator[None]:
        try:
            yield
        except GroundupError as error:
            # Without a barrier first: the others may be waiting for this rank.
            self._store.set(self._key(self._barriers + 1, self.rank), json.dumps(str(error)))
            raise
        self.barrier()

    def barrier(self) -> None:
        self._barriers += 1
        self._store.set(self._key(self._barriers, self.rank), json.dumps(""))
        for rank in range(self.size):
            if error := json.loads(self._store.get(self._key(self._barriers, rank))):
                raise AnotherRankError(f"rank {rank}: {error}")

    @staticmethod
    def _key(barrier: int, rank: int) -> str:
        return f"barrier {barrier} of rank {rank}"

    def broadcast(self, value: Any) -> Any:
        self._broadcasts += 1
        key = f"broadcast {self._broadcasts}"
        if self.is_main:
            self._store.set(key, json.dumps(value))
        return json.loads(self._store.get(key))

    def all_gather(self, value: Any) -> list[Any]:
        self._broadcasts += 1
        keys = [f"all-gather {self._broadcasts} of rank {rank}" for rank in range(self.size)]
        self._store.set(keys[self.rank], json.dumps(value))
        return [json.loads(self._store.get(key)) for key in keys]

    def all_reduce_intent(self, own: Intent) -> Intent:
        clock = (own.time_is_up, own.progress, own.save) if self.is_main else (0, 0, 0)
        everyone = torch.tensor([own.signal, own.damaged, *clock], dtype=torch.float64)
        torch.distributed.all_reduce(everyone, torch.distributed.ReduceOp.MAX)
        signal, damaged, time_is_up, progress, save = everyone.tolist()
        return Intent(int(signal), bool(time_is_up), progress, bool(damaged), bool(save))

    def all_reduce_signal(self, own: int) -> int:
        received = torch.tensor([own], dtype=torch.int64)
        torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX)
        return int(received)

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        value = value.clone()
        torch.distributed.all_reduce(value)
        return value / self.size

    def all_reduce_sum(self, values: list[float]) -> list[float]:
        sums = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(sums)
        return sums.tolist()


_groups: list[Any] = []
"""Destroyed process groups, referenced until the process ends. The destructor of a gloo group holds the GIL while it
joins a thread that may wait for the GIL to release a tensor: a finished rank hung there once in a few hundred runs."""


@contextmanager
def joined(run: RunDirectory, launch: Launch | None = None) -> Iterator[Ranks]:
    """Join the ranks that torchrun started for the block; a process alone is its only rank.

    Args:
        run: names the newest checkpoint in the message about a lost rank.

    Raises:
        TrainingError: another rank is gone.
        AnotherRankError: the job ends, and another rank tells the user why.
    """
    launch = launch or Launch.from_environment()
    if launch.ranks == 1:
        yield Ranks(launch)
        return
    import torch.distributed as dist
    from torch.distributed import distributed_c10d
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
    store = PrefixStore(name_of_this_start(store, launch.rank, launch.ranks, TIMEOUT.total_seconds()), store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend, store=PrefixStore("tensors", store), rank=launch.rank, world_size=launch.ranks, timeout=TIMEOUT
    )
    with lingering():
        try:
            with parting(launch, PrefixStore("parting", store), run):
                yield ManyRanks(launch, PrefixStore("words", store))
            _groups.extend(distributed_c10d._world.pg_map)
            # Only after success: it may wait for a rank that is lost.
            dist.destroy_process_group()
        finally:
            _leave_last(launch, PrefixStore("leaving", store))


def _leave_last(launch: Launch, store: Store) -> None:
    # Without torchrun's agent store, the store lives in the first rank, which must not exit while others use it.
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return
    with suppress(RuntimeError):
        if not launch.is_main:
            store.set(f"rank {launch.rank}", "")
            return
        others = [f"rank {rank}" for rank in range(1, launch.ranks)]
        # Not store.wait(), which logs lines on a timeout, as for a rank that was killed.
        end = time.monotonic() + _LAST_PATIENCE
        while time.monotonic() < end and not store.check(others):
            time.sleep(0.02)
