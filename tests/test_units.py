"""Sizes and counts, both ways; the expected values are arithmetic written out."""

from __future__ import annotations

import time
from typing import Any

import pytest

from memcalc.units import LARGEST, UNITS, format_bytes, format_count, parse_bytes, parse_count, parse_margin, unit_name

GIB = 1_073_741_824
BYTES: list[tuple[Any, int]] = [
    ("76GiB", 81_604_378_624), ("76 GiB", 81_604_378_624), ("76gib", 81_604_378_624), (" 76 GiB ", 81_604_378_624),
    ("2GB", 2_000_000_000), ("2 GB", 2_000_000_000), ("2 gb", 2_000_000_000),
    ("80G", 80 * GIB), ("80g", 80 * GIB), ("1T", 1_099_511_627_776), ("512M", 536_870_912), ("1k", 1024),
    ("1.5GiB", 1_610_612_736), (".5 GiB", 536_870_912), ("0.1 GiB", 107_374_182), ("1e3 MiB", 1_048_576_000),
    ("81559MiB", 85_520_809_984), ("5e8", 500_000_000), (5e8, 500_000_000), (0, 0), ("0", 0), (7, 7), ("7 B", 7),
    ("12 bytes", 12), ("1_000_000", 1_000_000), (2**60, 2**60), ("+3 KiB", 3072),
    ("9007199254740993", 9007199254740993),
    ("1023.9 TiB", 1_125_789_955_679_846),
]  # fmt: skip
NOT_BYTES: list[tuple[Any, str]] = [
    ("", "is not a size"), ("GiB", "is not a size"), ("lots", "is not a size"), ("5%", "is not a size"),
    ("-1GiB", "negative"), (-1, "negative"), ("nan", "is not a size"), (float("nan"), "is not a size"),
    (float("inf"), "is not a size"), ("inf", "is not a size"), (1e30, "larger than any size"),
    ("1e30", "larger than any"),
    ("1e999", "larger than any"), ("1e999999999", "is not a size"), ("3 parsecs", "unknown unit 'parsecs'"),
    ("1,5 GiB", "is not a size"), ("1.5", "whole number of bytes"), (1.5, "whole number of bytes"),
    (True, "is not a size"),
    (None, "is not a size"), ([1], "is not a size"), ("0x10", "unknown unit 'x'|is not a size"),
    ("٣GiB", "is not a size"),
    ("9" * 100_000, "is not a size"), (10**4000, "larger than any size"), ("1 GiB 2", "is not a size"),
]  # fmt: skip
COUNTS: list[tuple[Any, int]] = [
    ("7b", 7_000_000_000), ("7B", 7_000_000_000), ("1.5B", 1_500_000_000), ("350m", 350_000_000),
    ("110e6", 110_000_000),
    (7e9, 7_000_000_000), (7, 7), ("6_738_415_616", 6_738_415_616), ("70 billion", 70_000_000_000),
    ("1.3T", 1_300_000_000_000),
    ("0.1b", 100_000_000), ("6.738415616b", 6_738_415_616), ("405 B", 405_000_000_000), ("768k", 768_000), ("0", 0),
]  # fmt: skip
SHOWN_BYTES = [
    (81_604_378_624, "GiB", "76.00 GiB"), (81_604_378_624, "GB", "81.60 GB"), (0, "GiB", "0.00 GiB"),
    (1, "GiB", "<0.01 GiB"),
    (1, "B", "1 B"), (1_234_567, "B", "1,234,567 B"), (8_519_680, "MiB", "8.13 MiB"), (-GIB, "GiB", "-1.00 GiB"),
    (-1, "GiB", "-<0.01 GiB"), (1_099_511_627_776, "auto", "1.00 TiB"), (1_048_575_999, "auto", "1000.00 MiB"),
    (GIB - 1, "auto", "1.00 GiB"), (1023, "auto", "1,023 B"), (0, "auto", "0 B"), (1536, "KiB", "1.50 KiB"),
    (1500, "kB", "1.50 kB"), (10**12, "TB", "1.00 TB"), (5_368_710, "GiB", "0.01 GiB"), (5_368_708, "GiB", "<0.01 GiB"),
    (9007199254740993 * 1024, "KiB", "9007199254740993.00 KiB"),
]  # fmt: skip
SHOWN_COUNTS = [
    (6_738_415_616, "6.74 B"), (350_000_000, "350.00 M"), (999, "999"), (0, "0"), (1000, "1.00 K"), (999_999, "1.00 M"),
    (999_994, "999.99 K"), (1_200_000_000_000, "1.20 T"), (-2_000_000, "-2.00 M"),
]  # fmt: skip


@pytest.mark.parametrize(("written", "expected"), BYTES)
def test_bytes_are_read_exactly(written: Any, expected: int) -> None:
    assert parse_bytes(written) == expected


@pytest.mark.parametrize(("written", "message"), NOT_BYTES)
def test_a_size_that_is_none_is_refused_at_once(written: Any, message: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message) as error:
        parse_bytes(written)
    assert time.perf_counter() - start < 1
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(("written", "expected"), COUNTS)
def test_counts_are_read_exactly(written: Any, expected: int) -> None:
    assert parse_count(written) == expected


@pytest.mark.parametrize("written", ["", "b", "8x7b", "1.5", 1.5, "-7b", "nan", 1e30, "7 GiB", True, None, "7bb"])
def test_a_count_that_is_none_is_refused(written: Any) -> None:
    with pytest.raises(ValueError, match=r"count|whole number"):
        parse_count(written)


@pytest.mark.parametrize(
    ("written", "of", "expected"),
    [("5%", 1000, 50), ("5 %", 1001, 51), ("2GiB", 80 * GIB, 2 * GIB),
     (0, 5, 0), (4096, 5000, 4096), ("0%", 5, 0), ("2.5%", 1000, 25), ("100%", 7, 7)],
)  # fmt: skip
def test_a_margin_is_bytes_or_a_share_rounded_up(written: Any, of: int, expected: int) -> None:
    assert parse_margin(written, of) == expected


@pytest.mark.parametrize(
    ("written", "message"),
    [("101%", "more than there is"), ("-5%", "negative"), ("x%", "percentage"), (0.05, '"5%"'), ("0.05", '"5%"'), (10, "unit"),
     ("90GiB", "more than"),
     ("nan%", "percentage"), ("%", "percentage"), ("5%%", "percentage"), (True, "size"), ("5GiB%", "percentage")],
)  # fmt: skip
def test_a_margin_that_is_none_is_refused(written: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_margin(written, 80 * GIB)


@pytest.mark.parametrize(("n", "unit", "expected"), SHOWN_BYTES)
def test_bytes_are_shown_with_their_unit(n: int, unit: str, expected: str) -> None:
    assert format_bytes(n, unit) == expected


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("n", [3, 12_345, 10**9, 81_604_378_624, LARGEST])
def test_what_is_shown_reads_back_within_half_a_hundredth(n: int, unit: str) -> None:
    shown = format_bytes(n, unit).replace(",", "").replace("<0.01", "0")
    try:
        assert abs(parse_bytes(shown) - n) <= UNITS[unit] // 200 + 1
    except ValueError:
        assert n == LARGEST  # rounded up beyond the largest


@pytest.mark.parametrize(("n", "expected"), SHOWN_COUNTS)
def test_counts_are_shown_short(n: int, expected: str) -> None:
    assert format_count(n) == expected


def test_unit_names() -> None:
    assert [unit_name(u) for u in ("gib", "GB", "AUTO", "b")] == ["GiB", "GB", "auto", "B"]
    with pytest.raises(ValueError, match=r"nearest: .*GiB"):
        unit_name("giib")
