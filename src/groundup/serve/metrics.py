"""Metrics in Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groundup.serve.models import ServedModel

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
OUTCOMES = ("ok", "invalid", "overloaded", "timeout", "cancelled", "unavailable", "failed")
"""What becomes of a request: answered, refused by its content (4xx), by the queue (429), ended by its time-out, by the
client, refused or ended since the server stops (503), or failed (500)."""


class Histogram:
    """Seconds in buckets."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str) -> Iterable[str]:
        """The histogram in Prometheus' format."""
        total = 0
        for bound, count in zip([*map(str, _SECONDS), "+Inf"], self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """What the server has done; used on the event loop only."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.prompt_tokens: Counter[str] = Counter()
        self.generated_tokens: Counter[str] = Counter()
        self.first_token = Histogram()
        self.whole = Histogram()

    def text(self, models: Mapping[str, ServedModel]) -> str:
        """All metrics."""
        lines: list[str] = []

        def add(name: str, kind: str, about: str, values: Iterable[str]) -> None:
            lines.extend([f"# HELP groundup_{name} {about}", f"# TYPE groundup_{name} {kind}", *values])

        def of_models(name: str, values: Mapping[str, float]) -> Iterable[str]:
            return [f'groundup_{name}{{model="{_escaped(model)}"}} {values[model]:g}' for model in models]

        requests = [f'groundup_requests_total{{outcome="{outcome}"}} {self.requests[outcome]}' for outcome in OUTCOMES]
        add("requests_total", "counter", "Requests for text by outcome.", requests)
        for name, about, counts in (
            ("prompt_tokens_total", "Tokens of prompts.", self.prompt_tokens),
            ("generated_tokens_total", "Generated tokens.", self.generated_tokens),
        ):
            values = [f'groundup_{name}{{model="{_escaped(model)}"}} {counts[model]}' for model in models]
            add(name, "counter", about, values)
        workers = {name: served.worker for name, served in models.items()}
        running = {name: worker.running for name, worker in workers.items()}
        waiting = {name: worker.waiting for name, worker in workers.items()}
        rows = {name: worker.engine.rows for name, worker in workers.items()}
        up = {name: float(worker.failure is None) for name, worker in workers.items()}
        add("running", "gauge", "Texts that are being generated.", of_models("running", running))
        add("waiting", "gauge", "Texts that wait for a row.", of_models("waiting", waiting))
        add("rows", "gauge", "Texts that can be generated at once.", of_models("rows", rows))
        add("up", "gauge", "Whether the model can generate.", of_models("up", up))
        first, whole = "first_token_seconds", "request_seconds"
        add(first, "histogram", "From a request to its first token.", self.first_token.lines(f"groundup_{first}"))
        add(whole, "histogram", "From a request to the end of its answer.", self.whole.lines(f"groundup_{whole}"))
        return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
