"""Number of available cores, work in the background, and the wait policy of OpenMP threads. Imports no torch.

OpenMP threads wait at barriers, a thousand times a training step. With the active wait policy a waiting thread spins;
with the passive policy it sleeps. Spinning is faster while every thread has a core. If other processes use the cores, a
spinning thread takes the core from the thread that it waits for, and a step takes 50 times as long (docs/LAB.md). The
better policy therefore depends on the load, which changes during a run.

OpenMP reads the policy only once, when torch is loaded. But libgomp, the OpenMP library in torch's wheels for Linux,
spins for 100 iterations instead of 300,000 while it manages more threads than there are cores. :func:`wait_by_load`
uses this to switch the policy: it starts a team of idle threads, which raises libgomp's thread count above the number
of cores, and ends the team to restore the count. The teams that compute keep their size, so results are the same bit
for bit.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

USER_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables by which a user chooses a wait policy. If one is set, groundup does not change the policy."""
_BUSY = 0.5
"""Load average per core at which a machine counts as busy."""
_POLL_SECONDS = 0.2
_CONTENDED = 0.05
"""Share of time that threads with work wait for a core, at which the policy becomes passive."""
_CALM_POLLS = 10
"""Consecutive polls without contention after which the policy becomes active again."""
_LEAST_SECONDS = 0.005
"""Least processor and waiting time between two polls from which a share is computed."""
_SCHEDULED = "/proc/self/task/{}/schedstat"

_watched = threading.Lock()


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def in_background(function: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Callable[[], Any]]:
    """Call a function in a thread, and yield what waits for its result, or raises what it raised.

    Hashing, which releases the GIL, takes about as long as reading or writing what is hashed.
    """
    from concurrent.futures import ThreadPoolExecutor  # not above: every command imports this module

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(function, *arguments, **options).result


def choose_wait_policy() -> bool:
    """Set the passive wait policy if the machine is busy and :func:`wait_by_load` cannot switch it during the run.

    Call it before torch is loaded: OpenMP reads the variable then. A policy that the user has set is kept.

    Returns:
        Whether the policy was set.
    """
    if _user_has_chosen() or "torch" in sys.modules or not hasattr(os, "getloadavg") or _ships_libgomp():
        return False
    if os.getloadavg()[0] < _BUSY * (os.cpu_count() or 1):
        return False
    os.environ["OMP_WAIT_POLICY"] = "passive"
    return True


@contextlib.contextmanager
def wait_by_load() -> Iterator[None]:
    """Context manager that makes the wait policy passive while other processes compete for the cores.

    Enter it with torch loaded, in the thread that computes. It does nothing if the user has set a policy, if torch uses
    one thread, if the OpenMP library is not libgomp, if the kernel does not count waiting time, or inside another
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
    """Scheduler statistics of a thread since its start, in seconds."""

    running: float
    """Time on a core."""
    ready: float
    """Time in the run queue: with work to do, but without a core."""


def scheduled() -> dict[int, Scheduled]:
    """Scheduler statistics of each thread of this process, by thread id."""
    found = {}
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError, ValueError):  # the thread may have ended
            with open(_SCHEDULED.format(thread), "rb") as file:
                running, ready = file.read().split()[:2]
            found[int(thread)] = Scheduled(int(running) / 1e9, int(ready) / 1e9)
    return found


def share_without_core(before: Mapping[int, Scheduled], now: Mapping[int, Scheduled]) -> float | None:
    """Share of time that threads with work waited for a core; None if they had less than 5 ms of work.

    Only threads in both arguments count.
    """
    both = before.keys() & now.keys()
    running = sum(now[thread].running - before[thread].running for thread in both)
    ready = sum(now[thread].ready - before[thread].ready for thread in both)
    return ready / (running + ready) if running + ready >= _LEAST_SECONDS else None


class WaitPolicy:
    """Wait policy by load: passive at the first poll with contention, active again after ten polls without.

    Missed contention makes steps several times as slow. A passive policy that is kept too long costs a few percent.
    """

    def __init__(self) -> None:
        self.passive = False
        self._calm = 0

    def update(self, share: float | None) -> bool:
        """Take the result of a poll; return whether the policy is passive from now on.

        Args:
            share: :func:`share_without_core` since the last poll.
        """
        if share is not None and share >= _CONTENDED:
            self.passive, self._calm = True, 0
        elif share is not None:
            self._calm += 1
            self.passive = self.passive and self._calm < _CALM_POLLS
        return self.passive


class SurplusTeam:
    """Idle OpenMP team. While it exists, libgomp counts more threads than cores, and waiting threads hardly spin.

    Args:
        threads: size of the team that computes.
    """

    def __init__(self, libgomp: ctypes.CDLL, threads: int):
        self._libgomp = libgomp
        # One more thread than is missing: libgomp does not count the thread that starts a team.
        self._size = max(2, available_cores() - threads + 2)
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    @property
    def exists(self) -> bool:
        """Whether the team is started and not ended."""
        return self._thread is not None

    def start(self) -> None:
        """Start the team."""
        self._over.clear()
        self._thread = threading.Thread(target=self._hold, name="surplus OpenMP team", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the team. libgomp ends a team together with the thread that started it."""
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            self._thread = None

    def _hold(self) -> None:
        # Each thread of a parallel region calls a C function once. This one has no side effects.
        no_op = ctypes.cast(self._libgomp.omp_get_thread_num, ctypes.c_void_p)
        self._libgomp.GOMP_parallel(no_op, None, self._size, 0)
        self._over.wait()


class _Watcher:
    """Thread that polls the scheduler statistics five times a second, and starts and ends the surplus team."""

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
        while not self._over.wait(_POLL_SECONDS):
            now = scheduled()
            passive = policy.update(share_without_core(before, now))
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
    """Whether the installed torch ships libgomp, so that :func:`wait_by_load` can switch the policy."""
    torch = importlib.util.find_spec("torch")
    places = (torch.submodule_search_locations if torch else None) or []
    return _kernel_counts() and any(any(Path(place, "lib").glob("libgomp*.so*")) for place in places)


def _libgomp() -> ctypes.CDLL | None:
    """The loaded libgomp; None if torch uses another OpenMP library, or the kernel does not count waiting time."""
    if not _kernel_counts():
        return None
    loaded = ctypes.CDLL(None)
    return loaded if hasattr(loaded, "GOMP_parallel") and not hasattr(loaded, "kmp_set_blocktime") else None
