"""Failures of a job of several ranks: one message, whichever rank failed.

The first rank reports an error that all ranks raise; a single rank reports its own error. A rank that is killed reports
nothing: the others notice that it no longer answers, and one of them reports it.
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
"""Seconds that a rank waits for another one to report, and for the others to confirm that they are alive."""
_LAST_SECONDS = 10
"""Seconds that a rank lives after an unhandled SIGTERM; torchrun kills it after thirty."""


class AnotherRankError(GroundupError, RuntimeError):
    """The job has ended because of another rank, which tells the user why; this one exits silently."""


@contextmanager
def parting(launch: Launch, store: Store, run: RunDirectory) -> Iterator[None]:
    """Report an error of the block once over all ranks; use it within :func:`lingering`, which leaves time for that.

    Args:
        store: holds which ranks are alive, and which one has reported.

    Raises:
        TrainingError: another rank is gone; says which one, and names the newest checkpoint.
        AnotherRankError: in place of an error that another rank reports or has caused.
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
            _claim(store)  # this rank will show it
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
    """Leave some seconds after a first SIGTERM in the block to find out what has happened.

    torchrun sends it to the others as soon as one rank has died, often before they have noticed.
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
    text = str(error)  # gloo has no exception class
    return "gloo" in text or "Connection closed by peer" in text or "Connection reset by peer" in text


def _claim(store: Store) -> bool:
    """Claim the report; True for the first rank that does."""
    try:
        return store.add("spoken", 1) == 1
    except RuntimeError:  # the store has gone with its machine
        return True


def _may_speak(launch: Launch, store: Store) -> bool:
    if not launch.is_main:  # the first rank, if it lives, comes first
        with suppress(RuntimeError):
            # Polling, since store.wait() logs lines on a timeout.
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
