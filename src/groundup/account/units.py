"""Sizes and durations as a person says them."""

import math


def size_text(count: float) -> str:
    """Bytes in decimal units: 12.3 MB."""
    if round(count) < 1000:
        return f"{count:.0f} bytes"
    for unit, scale in (("kB", 1e3), ("MB", 1e6)):
        if round(count / scale, 1) < 1000:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e9:,.2f} GB"


def time_text(seconds: float) -> str:
    """A duration: 2.4 s, 48 s, 12 min, 3 h 05 min, 4 days 7 h.

    Args:
        seconds: 0 or greater, and finite.
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    days, hours = divmod(math.floor(minutes / 60 + 0.5), 24)
    return f"{days:,} days {hours} h"
