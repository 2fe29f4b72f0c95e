"""What sweeps are compared by."""

from typing import Any

from groundup.sweeps.sweep import SweepResult


def table(result: SweepResult) -> list[dict[str, Any]]:
    """What two sweeps have in common if they are the same: all but the clock, and how many attempts it took."""
    return [{k: v for k, v in r.__dict__.items() if k not in ("seconds", "attempts")} for r in result.results.values()]
