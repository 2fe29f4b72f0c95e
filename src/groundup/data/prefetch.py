"""The next batch is made while the device works on this one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """A pure function of the step, evaluated for the step after the one that is asked for by a thread beside.

    Steps may be asked for in any order; only the next one is ever ready. An exception is raised where its step is
    asked for.

    Args:
        make: the batch of a step.
        ahead: False makes each when it is asked for.
    """

    def __init__(self, make: Callable[[int], T], *, ahead: bool = True):
        self._make = make
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch") if ahead else None
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, step: int) -> T:
        if self._thread is None:
            return self._make(step)
        ready, self._next = self._next, None
        batch = ready[1].result() if ready is not None and ready[0] == step else self._make(step)
        self._next = step + 1, self._thread.submit(self._make, step + 1)
        return batch

    def close(self) -> None:
        """End the thread; what it is making is dropped."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
