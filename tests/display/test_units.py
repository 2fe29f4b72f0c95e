"""Sizes and durations in words say what they stand for, to the digits they show."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.display.units import count_text, flops_text, parse_count, parse_size, size_text, time_text
from groundup.errors import ConfigError

UNITS = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
SECONDS = {"ms": 1e-3, "s": 1, "min": 60, "h": 3600, "days": 86400}


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
        (0.0345, "34.5 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (2.44, "2.4 s"),
        (9.96, "10 s"),
        (48, "48 s"),
        (99.6, "2 min"),
        (720, "12 min"),
        (3599, "1 h 00 min"),
        (3 * 3600 + 5 * 60, "3 h 05 min"),
        (48 * 3600 - 29, "2 days 0 h"),
        (4 * 86400 + 7 * 3600, "4 days 7 h"),
        (568_819_274, "18.0 years"),
        (1e20, "3.17e+12 years"),
    ],
)
def test_durations(seconds: float, text: str):
    assert time_text(seconds) == text


@given(seconds=st.floats(0, 9e7))
def test_a_duration_reads_back_to_what_it_was(seconds: float):
    parts = re.findall(r"([\d,.e-]+) (ms|s|min|h|days)", time_text(seconds))
    assert " ".join(f"{number} {unit}" for number, unit in parts) == time_text(seconds)
    value = sum(float(number.replace(",", "")) * SECONDS[unit] for number, unit in parts)
    # Half a minute from rounding to minutes, and half of the last unit shown.
    if parts[0][1] == "ms":
        assert value == pytest.approx(seconds, rel=0.006)
        return
    smallest = 0.1 if "." in parts[-1][0] else SECONDS[parts[-1][1]]
    assert abs(value - seconds) <= smallest / 2 + (30 if parts[-1][1] == "h" else 0) + 1e-6
    if len(parts) == 2:
        assert float(parts[1][0]) < {"min": 60, "h": 24}[parts[1][1]]


@pytest.mark.parametrize(
    ("flops", "text"),
    [
        (0, "0 FLOPs"),
        (999, "999 FLOPs"),
        (4.5133365248e12, "4.513 TFLOPs"),
        (999_960, "1 MFLOPs"),
        (1e30, "1.000e+30 FLOPs"),
    ],
)
def test_operations(flops: float, text: str):
    assert flops_text(flops) == text


@pytest.mark.parametrize(
    ("count", "text"), [(7, "7"), (2_127_057_600, "2.13 billion"), (999_600, "1 million"), (10**30, "1e+30")]
)
def test_counts(count: float, text: str):
    assert count_text(count) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("80GB", 80 * 10**9),
        ("80 GiB", 80 * 2**30),
        ("1.5gb", 1_500_000_000),
        ("24e3 MiB", 24_000 * 2**20),
        ("512B", 512),
    ],
)
def test_a_size_is_read_with_its_unit(text: str, size: int):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["80", "GB", "", "-1GB", "1e999GB", "80 apples", "1.2.3GB", "nanGB"])
def test_a_size_without_a_unit_or_number_is_refused(text: str):
    with pytest.raises(ConfigError, match="is not a size; expected a number and its unit, such as 80GB or 80GiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("10_000", 10_000), ("300B", 300 * 10**9), ("1.5M", 1_500_000), ("1e30", 10**30), ("1", 1), ("2,000", 2000)],
)
def test_a_count_is_read_exactly(text: str, count: int):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "-5", "0", "1.5", "1e", "1e9999", "many", "nan", "0.5K1"])
def test_what_is_no_count_is_refused(text: str):
    with pytest.raises(ConfigError, match=r"expected (one such as 10000|a whole number)"):
        parse_count(text)


@given(number=st.integers(1, 10**40))
def test_every_whole_number_is_read_as_it_is(number: int):
    assert parse_count(str(number)) == parse_count(f"{number:_}") == number
