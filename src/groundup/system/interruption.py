"""Interruption of a run by a signal: between two steps, never inside one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interruption:
    """Context manager that stores the first SIGINT, SIGTERM, SIGHUP (closed terminal) or SIGUSR1 in ``signal``.

    The second signal has its usual effect. A signal that is ignored from the start, as under ``nohup``, stays ignored.
    SIGUSR1 is a warning that a scheduler sends before SIGTERM (``sbatch --signal=USR1@60``). The signal after it is
    still only stored, so the checkpoint can use the time between the two.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def receive(self, number: int) -> None:
        """Store a signal that another rank received; 0 for none."""
        if number:
            self.signal = signal.Signals(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if number != signal.SIGUSR1:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
