"""The cores of this process, and how its OpenMP threads wait for each other; imports no torch.

A thread that waits for another one either spins (the active wait policy) or sleeps (the passive one). Spinning is
quicker while every thread has a core. Where other processes run, a spinning thread keeps its core from the thread that
it waits for, a thousand times a step, and a step takes 50 times as long (docs/LAB.md). The right policy therefore
follows the load, which comes and goes during a run.

OpenMP reads its policy once, when torch is loaded. But libgomp, the OpenMP of torch's wheels for Linux, spins for 100
iterations instead of 300,000 while it manages more threads than there are cores. :func:`wait_by_load` switches by that:
a team of threads that do nothing makes libgomp count too many, and its end makes it count right again. The teams that
compute keep their size, so results are the same bit for bit.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

USER_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables by which a user chooses a wait policy; with one of them groundup leaves it alone."""
_BUSY = 0.5
"""Running processes per core from which on a machine counts as busy."""
_LOOK_SECONDS = 0.2
_CONTENDED = 0.05
"""Share of the time in which threads were ready but had no core, from which on they are to sleep when they wait."""
_CALM_LOOKS = 10
"""Looks in a row without contention after which threads may spin again."""
_LEAST_SECONDS = 0.005
_SCHEDULED = "/proc/self/task/{}/schedstat"

_watched = threading.Lock()


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_wait_policy() -> bool:
    """Set the passive wait policy if the machine is busy and :func:`wait_by_load` cannot switch it during the run.

    OpenMP reads the variable when torch is loaded, so this comes first. A policy that the user has set stays.

    Returns:
        Whether it took effect.
    """
    if _user_has_chosen() or "torch" in sys.modules or not hasattr(os, "getloadavg") or _ships_libgomp():
        return False
    if os.getloadavg()[0] < _BUSY * (os.cpu_count() or 1):
        return False
    os.environ["OMP_WAIT_POLICY"] = "passive"
    return True


@contextlib.contextmanager
def wait_by_load() -> Iterator[None]:
    """Let OpenMP threads sleep instead of spin while other processes want the cores, and spin again afterwards.

    Enter it with torch loaded, in the thread that computes. It does nothing where the user has set a policy, where one
    thread computes, where OpenMP is not libgomp or the kernel does not count waiting time, and inside another
    ``wait_by_load``.
    """
    libgomp = _libgomp()
    if libgomp is None or _user_has_chosen() or not _watched.acquire(blocking=False):
        yield
        return
    try:
        threads = libgomp.omp_get_max_threads()
        if threads == 1:
            yield
            return
        with _Watcher(SurplusTeam(libgomp, threads)):
            yield
    finally:
        _watched.release()


class Scheduled(NamedTuple):
    """What the scheduler has counted for a thread since its start, in seconds."""

    running: float
    ready: float
    """Without a core, though it had work to do."""


def scheduled() -> dict[int, Scheduled]:
    """The counts of each thread of this process."""
    found = {}
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError, ValueError):  # it may have ended
            with open(_SCHEDULED.format(thread), "rb") as file:
                running, ready = file.read().split()[:2]
            found[int(thread)] = Scheduled(int(running) / 1e9, int(ready) / 1e9)
    return found


def share_without_core(before: Mapping[int, Scheduled], now: Mapping[int, Scheduled]) -> float | None:
    """Share of the time in which threads with work to do had no core; None if they had next to nothing to do.

    A thread counts that is in both counts.
    """
    both = before.keys() & now.keys()
    running = sum(now[thread].running - before[thread].running for thread in both)
    ready = sum(now[thread].ready - before[thread].ready for thread in both)
    return ready / (running + ready) if running + ready >= _LEAST_SECONDS else None


class WaitPolicy:
    """The wait policy by load: passive at the first look with contention, active again after ten looks without.

    Contention that is missed costs a multiple, and a passive policy that lasts too long a few percent.
    """

    def __init__(self) -> None:
        self.passive = False
        self._calm = 0

    def look(self, share: float | None) -> bool:
        """Whether to wait passively from now on.

        Args:
            share: of the time since the last look, as :func:`share_without_core` says.
        """
        if share is not None and share >= _CONTENDED:
            self.passive, self._calm = True, 0
        elif share is not None:
            self._calm += 1
            self.passive = self.passive and self._calm < _CALM_LOOKS
        return self.passive


class SurplusTeam:
    """An OpenMP team that does nothing. While it exists, libgomp counts more threads than cores and hardly spins.

    Args:
        threads: size of the team that computes.
    """

    def __init__(self, libgomp: ctypes.CDLL, threads: int):
        self._libgomp = libgomp
        # The thread that starts a team is not counted, so one more than are missing.
        self._size = max(2, available_cores() - threads + 2)
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    @property
    def exists(self) -> bool:
        """Whether it was started and not ended since."""
        return self._thread is not None

    def start(self) -> None:
        """Make it."""
        self._over.clear()
        self._thread = threading.Thread(target=self._hold, name="surplus OpenMP team", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End it. libgomp ends a team with the thread that has started it."""
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            self._thread = None

    def _hold(self) -> None:
        # A parallel region needs a C function, which each thread of the team calls once; any harmless one will do.
        nothing = ctypes.cast(self._libgomp.omp_get_thread_num, ctypes.c_void_p)
        self._libgomp.GOMP_parallel(nothing, None, self._size, 0)
        self._over.wait()


class _Watcher:
    """A thread that looks at the load five times a second, and starts and ends a surplus team by it."""

    def __init__(self, team: SurplusTeam):
        self._team = team
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="wait policy", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._team.end()

    def _watch(self) -> None:
        policy = WaitPolicy()
        before = scheduled()
        while not self._over.wait(_LOOK_SECONDS):
            now = scheduled()
            passive = policy.look(share_without_core(before, now))
            before = now
            if passive and not self._team.exists:
                self._team.start()
            elif not passive:
                self._team.end()


def _user_has_chosen() -> bool:
    return any(name in os.environ for name in USER_SETTINGS)


def _kernel_counts() -> bool:
    return Path(_SCHEDULED.format(os.getpid())).exists()


def _ships_libgomp() -> bool:
    """Whether the torch that would be loaded brings libgomp, so that :func:`wait_by_load` will switch."""
    torch = importlib.util.find_spec("torch")
    places = (torch.submodule_search_locations if torch else None) or []
    return _kernel_counts() and any(any(Path(place, "lib").glob("libgomp*.so*")) for place in places)


def _libgomp() -> ctypes.CDLL | None:
    """The loaded libgomp; None if another OpenMP is loaded, or none, or the kernel does not count."""
    if not _kernel_counts():
        return None
    loaded = ctypes.CDLL(None)
    return loaded if hasattr(loaded, "GOMP_parallel") and not hasattr(loaded, "kmp_set_blocktime") else None
