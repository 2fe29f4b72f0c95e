"""Sizes and durations in words say what they stand for, to the digits they show."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.account.units import size_text, time_text

UNITS = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
SECONDS = {"s": 1, "min": 60, "h": 3600, "days": 86400}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (999.6, "1.0 kB"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (12_345_678, "12.3 MB"),
        (999_999_999, "1.00 GB"),
        (25.28e9, "25.28 GB"),
        (4e15, "4,000,000.00 GB"),
    ],
)
def test_sizes(count: float, text: str):
    assert size_text(count) == text


@given(count=st.floats(0, 1e18))
def test_a_size_reads_back_to_what_it_was_and_never_has_four_digits_below_gigabytes(count: float):
    number, unit = size_text(count).split()
    value = float(number.replace(",", ""))
    half_a_digit = 0.5 if unit == "bytes" else 0.005 * UNITS["GB"] if unit == "GB" else 0.05 * UNITS[unit]
    assert value * UNITS[unit] == pytest.approx(count, abs=half_a_digit * 1.01, rel=1e-12)
    assert value < 1000 or unit == "GB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (2.44, "2.4 s"),
        (9.96, "10 s"),
        (48, "48 s"),
        (99.6, "2 min"),
        (720, "12 min"),
        (3599, "1 h 00 min"),
        (3 * 3600 + 5 * 60, "3 h 05 min"),
        (48 * 3600 - 29, "2 days 0 h"),
        (4 * 86400 + 7 * 3600, "4 days 7 h"),
    ],
)
def test_durations(seconds: float, text: str):
    assert time_text(seconds) == text


@given(seconds=st.floats(0, 1e9))
def test_a_duration_reads_back_to_what_it_was(seconds: float):
    parts = re.findall(r"([\d,.]+) (s|min|h|days)", time_text(seconds))
    assert " ".join(f"{number} {unit}" for number, unit in parts) == time_text(seconds)
    value = sum(float(number.replace(",", "")) * SECONDS[unit] for number, unit in parts)
    # Half a minute from rounding to minutes, and half of the last unit shown.
    smallest = 0.1 if "." in parts[-1][0] else SECONDS[parts[-1][1]]
    assert abs(value - seconds) <= smallest / 2 + (30 if parts[-1][1] == "h" else 0) + 1e-6
    if len(parts) == 2:
        assert float(parts[1][0]) < {"min": 60, "h": 24}[parts[1][1]]
