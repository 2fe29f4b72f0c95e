"""Where the time of a training step goes: torch's profiler over a few steps, and a page that sums it up."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from groundup.config import RunConfig
from groundup.train.preview.measure import synchronize
from groundup.train.preview.profile_summary import CLIPPING, DATA, ROOT, Timing, summary

STEPS = 5
"""How many steps are profiled."""
WARM_UP = 9
"""Warm-up steps before the profiled ones, if the session is long enough: they allocate, compile and fill caches."""

__all__ = ["CLIPPING", "DATA", "StepProfiler", "scope"]

_nothing = nullcontext()
_recording = False


def scope(name: str) -> AbstractContextManager[Any]:
    """Names a part of a step in the profile; costs a tenth of a microsecond where nothing is profiled."""
    if not _recording:
        return _nothing
    from torch.profiler import record_function

    return record_function(name)


class StepProfiler:
    """Profiles steps 10 to 14 of a session (earlier and fewer of a shorter one) and writes what it has seen.

    The profiler only watches: the numbers of the run stay as they are, bit for bit. The profiled steps are slower, and
    the device is waited for after each of them.

    Args:
        config: profiles where ``train.profile`` is set.
        run_dir: ``trace.json.gz`` and ``summary.md`` go into its folder ``profile``.
        left: steps that the session may make.
        note: told where the profile is, or why there is none.
    """

    def __init__(self, config: RunConfig, device: str, run_dir: Path, left: int, note: Callable[[str], None]):
        self._config, self._device, self._folder, self._note = config, device, run_dir / "profile", note
        self._count = min(STEPS, left) if config.train.profile else 0
        self._warm_up = min(WARM_UP, left - self._count)
        self._plain_seconds: list[float] = []
        self._profiled: list[int] = []
        self._profile: Any = None

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Within the block the run makes a step."""
        if len(self._profiled) == self._count:
            yield
            return
        warming_up = len(self._plain_seconds) < self._warm_up
        if not warming_up and self._profile is None:
            self._start()
        synchronize(self._device)
        began = time.perf_counter()
        try:
            with scope(ROOT):
                yield
                synchronize(self._device)
        except BaseException:
            self._stop()
            self._count = len(self._profiled)
            raise
        if warming_up:
            self._plain_seconds.append(time.perf_counter() - began)
            return
        self._profiled.append(number)
        if len(self._profiled) == self._count:
            self.close()

    def close(self) -> None:
        """Write what was profiled, if anything was and is not yet written; a full disk costs the profile only."""
        if self._profile is None:
            return
        profile = self._stop()
        self._count = len(self._profiled)
        if not self._profiled:
            return
        try:
            self._folder.mkdir(exist_ok=True)
            profile.export_chrome_trace(str(self._folder / "trace.json.gz"))
            # The first two steps allocate and compile.
            plain = statistics.median(self._plain_seconds[2:]) if len(self._plain_seconds) > 2 else None
            timing = Timing(self._profiled, plain)
            (self._folder / "summary.md").write_text(
                summary(self._config, self._device, profile.events(), timing), encoding="utf-8"
            )
        except OSError as error:
            self._note(f"the profile cannot be written to {self._folder}: {error.strerror or error}; going on")
        else:
            self._note(f"steps {self._profiled[0]:,} to {self._profiled[-1]:,} profiled: {self._folder / 'summary.md'}")

    def _start(self) -> None:
        global _recording
        # Its library tells standard error about every start and stop, and asks for the level when it is first used.
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")
        from torch.profiler import ProfilerActivity, profile

        cuda = [ProfilerActivity.CUDA] if self._device.startswith("cuda") else []
        # Events are wanted once only, but without acc_events torch warns that later ones would replace them.
        self._profile = profile(activities=[ProfilerActivity.CPU, *cuda], acc_events=True)
        self._profile.start()
        _recording = True

    def _stop(self) -> Any:
        global _recording
        _recording = False
        profile, self._profile = self._profile, None
        if profile is not None:
            profile.stop()
        return profile
