"""Interruption: a signal stops a run between two steps, not in the middle of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interruption:
    """Within the block, the first SIGINT, SIGTERM, SIGHUP (a closed terminal) or SIGUSR1 is noted in ``signal``.

    The second has its usual effect. A signal that the process was started to ignore, as ``nohup`` does, stays ignored.
    SIGUSR1 is a warning, which a scheduler sends some time before SIGTERM (``sbatch --signal=USR1@60``): after it the
    next signal is still noted, so that the checkpoint gets the time between the two.
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
        """Take a signal that another rank has received; 0 for none."""
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
