"""Sizes, counts, durations and option values as text, and sizes and counts from text."""

import math
import re
from fractions import Fraction

from groundup.errors import ConfigError

_BYTES = {"B": 1} | {
    f"{prefix}{middle}B": base**power
    for power, prefix in enumerate("KMGTP", start=1)
    for middle, base in (("", 1000), ("i", 1024))
}
_THOUSANDS = (("", 1), ("thousand", 10**3), ("million", 10**6), ("billion", 10**9), ("trillion", 10**12))
_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_PREFIXES = (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12), ("P", 1e15), ("E", 1e18))
_SECONDS_PER_YEAR = 365.25 * 86_400


def value_text(value: object) -> str:
    """An option's value as a recipe has it: ``true``, ``0.001``, and the shortest decimal that is exactly a float."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


def size_text(count: float) -> str:
    """Bytes in decimal units: 12.3 MB."""
    if round(count) < 1000:
        return f"{count:.0f} bytes"
    for unit, scale in (("kB", 1e3), ("MB", 1e6)):
        if round(count / scale, 1) < 1000:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e9:,.2f} GB"


def time_text(seconds: float) -> str:
    """A duration: 34 ms, 2.4 s, 48 s, 12 min, 3 h 05 min, 4 days 7 h, 18.0 years.

    Args:
        seconds: 0 or greater, and finite.
    """
    if seconds >= 3 * _SECONDS_PER_YEAR:
        years = seconds / _SECONDS_PER_YEAR
        return f"{years:,.1f} years" if years < 1e6 else f"{years:.2e} years"
    if 0 < seconds < 0.9995:
        return f"{1e3 * seconds:.3g} ms"
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


def flops_text(flops: float) -> str:
    """Operations: 4.513 TFLOPs, 3.2e+24 FLOPs."""
    for prefix, scale in _PREFIXES:
        if flops < 999.95 * scale:
            return f"{flops / scale:.4g} {prefix}FLOPs"
    return f"{flops:.3e} FLOPs"


def count_text(count: float) -> str:
    """A number that is too long to read: 2.13 billion."""
    for name, scale in _THOUSANDS:
        if count < 999.5 * scale:
            return f"{count / scale:.3g} {name}".strip()
    return f"{count:.3g}"


def parse_size(text: str) -> int:
    """Bytes of "80GB" (10^9) or "80 GiB" (2^30).

    Raises:
        ConfigError: no size, or none with a unit.
    """
    found = re.fullmatch(r"\s*([0-9][0-9_,.]*(?:e\+?[0-9]{1,2})?)\s*([a-z]+)\s*", text, re.IGNORECASE)
    units = {unit.lower(): scale for unit, scale in _BYTES.items()}
    number = _number(found[1]) if found else None
    if found is None or number is None or found[2].lower() not in units:
        raise ConfigError(f"{text!r} is not a size; expected a number and its unit, such as 80GB or 80GiB")
    return int(number * units[found[2].lower()])


def parse_count(text: str) -> int:
    """A whole number, exactly, however large: "300B", "1e30", "10_000", "1.5M".

    Raises:
        ConfigError: it is none, or it is below 1.
    """
    found = re.fullmatch(r"\s*([0-9][0-9_,.]*(?:e\+?[0-9]{1,3})?)\s*([kmbt]?)\s*", text, re.IGNORECASE)
    number = _number(found[1]) if found else None
    if found is None or number is None:
        raise ConfigError(f"{text!r} is not a number; expected one such as 10000, 1e9 or 300B")
    number *= _COUNTS[found[2].upper()]
    if number != int(number) or number < 1:
        raise ConfigError(f"{text!r} is {float(number):g}; expected a whole number, at least 1")
    return int(number)


def _number(text: str) -> Fraction | None:
    try:
        return Fraction(re.sub(r"[_,]", "", text))
    except ValueError:
        return None
