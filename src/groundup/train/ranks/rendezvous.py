"""Rendezvous: a unique name for one start of a job, in a store that may hold entries of earlier starts.

torchrun may keep one store through all restarts. torch then takes the address of a process of an earlier start for
that of its successor, and hangs. The restart count does not distinguish the starts: each machine counts its own.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING

from groundup.errors import TrainingError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_BETWEEN_LOOKS = 0.02


def name_of_this_start(store: Store, rank: int, size: int, patience: float) -> str:
    """Return the same new name on all ranks, once all have it.

    Every rank writes a new random token. The first rank publishes the tokens that it finds, some of which may be old,
    together with a name, until every other rank has found its token among them and confirmed it.

    Args:
        patience: seconds to wait for the others.

    Raises:
        TrainingError: not all of them came.
    """
    own = secrets.token_hex(8)
    end = time.monotonic() + patience
    if rank:
        store.set(f"token of rank {rank}", own)
    while time.monotonic() < end:
        if rank == 0:
            keys = [f"token of rank {other}" for other in range(1, size)]
            if all(store.check([key]) for key in keys):
                tokens = [store.get(key).decode() for key in keys]
                store.set("start", json.dumps([own, *tokens]))
                if all(store.check([f"{own} {token}"]) for token in tokens):
                    return own
        elif store.check(["start"]):
            name, *tokens = json.loads(store.get("start"))
            if tokens[rank - 1 : rank] == [own]:
                store.set(f"{name} {own}", "")
                return str(name)
        time.sleep(_BETWEEN_LOOKS)
    raise TrainingError(
        f"rank {rank} waited {patience:.0f} s for the others of {size} ranks to start; see what torchrun says of them"
    )
