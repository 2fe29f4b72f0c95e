"""Ending a job of several ranks with one message, whoever failed and however.

An error that all meet is told by the first of them, one that a single rank meets by that rank. A rank that is killed
tells nothing: the others notice that it no longer answers, and one of them says so.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from groundup.errors import GroundupError, TrainingError
from groundup.system.launch import Launch

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

    from groundup.record.run import RunDirectory

_PATIENCE = 2.0
"""Seconds that a rank waits for another one to speak, and for the others to say that they are alive."""
_LAST_SECONDS = 10
"""Seconds that a rank lives on after SIGTERM where nothing better is done about it; torchrun kills it after thirty."""


class AnotherRankError(GroundupError, RuntimeError):
    """The job has ended because of another rank, which tells the user why; this one only has to go."""


@contextmanager
def parting(launch: Launch, store: Store, run: RunDirectory) -> Iterator[None]:
    """Within the block, an error is told once; to be used within :func:`lingering`, which leaves the time for that.

    Args:
        store: where the ranks note that they live, and who has spoken.

    Raises:
        TrainingError: another rank is gone; says which, and which checkpoint there is.
        AnotherRankError: instead of the error, where another rank tells it or has caused it.
    """
    try:
        yield
    except AnotherRankError:
        raise
    except GroundupError as error:
        if not _may_speak(launch, store):
            raise AnotherRankError(str(error)) from None
        if not launch.is_main:  # alone with it, since the first rank said nothing
            raise TrainingError(f"rank {launch.rank}: {error}") from None
        raise
    except RuntimeError as error:
        if not _is_about_contact(error):
            _claim(store)  # whatever it is, this rank will show it
            raise
        store.set(f"alive {launch.rank}", "")
        if not _may_speak(launch, store):
            raise AnotherRankError(str(error)) from None
        raise TrainingError(_obituary(launch, store, run)) from None
    except Exception:
        _claim(store)
        raise


@contextmanager
def lingering() -> Iterator[None]:
    """Within the block, a first SIGTERM leaves some seconds to find out what has happened.

    torchrun sends it to the others as soon as it sees that one has died, often before they know themselves.
    """

    def linger(number: int, frame: FrameType | None) -> None:
        signal.alarm(_LAST_SECONDS)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        yield
        return
    previous = signal.signal(signal.SIGTERM, linger)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGTERM, previous)


def _is_about_contact(error: RuntimeError) -> bool:
    import torch.distributed as dist

    if isinstance(error, dist.DistError):
        return True
    text = str(error)  # gloo has no class of its own
    return "gloo" in text or "Connection closed by peer" in text or "Connection reset by peer" in text


def _claim(store: Store) -> bool:
    """Whether this is the first rank to speak; from now on another one is not."""
    try:
        return store.add("spoken", 1) == 1
    except RuntimeError:  # the store has gone with its machine
        return True


def _may_speak(launch: Launch, store: Store) -> bool:
    if not launch.is_main:  # the first rank, if it lives, comes first
        with suppress(RuntimeError):
            # Asked again and again, since store.wait() writes lines of its own where it waits in vain.
            end = time.monotonic() + _PATIENCE
            while time.monotonic() < end and not store.check(["spoken"]):
                time.sleep(0.02)
    return _claim(store)


def _obituary(launch: Launch, store: Store, run: RunDirectory) -> str:
    time.sleep(_PATIENCE / 2)
    try:
        gone = [rank for rank in range(launch.ranks) if not store.check([f"alive {rank}"])]
    except RuntimeError:
        gone = []
    who = f"rank {', '.join(map(str, gone))} of {launch.ranks}" if gone else f"one of the {launch.ranks} ranks"
    newest = max(run.steps(), default=None)
    there = "there is no checkpoint yet" if newest is None else f"the newest checkpoint is step-{newest}"
    return (
        f"{who} is gone (killed, out of memory, or its machine lost), so the others cannot go on; {there}: go on with "
        f"the same command and --resume, or let torchrun do it (torchrun --max-restarts 3 ... --resume)"
    )
