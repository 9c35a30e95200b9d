"""Bytes <-> "76 GiB", parameters <-> "7b": exact both ways, no float on the road.

Binary units (KiB, MiB, GiB, TiB) are powers of 1024, decimal ones (kB, MB, GB, TB) of 1000, in any case. A letter alone
("80G") is binary, as in nvidia-smi's habits, `ulimit` and coreutils. A fraction of a byte is rounded down: a limit that
someone wrote is never loosened.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from memcalc.errors import nearest_names, shorten

if TYPE_CHECKING:
    from fractions import Fraction

UNITS: Final[dict[str, int]] = {
    "B": 1,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
    "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip
COUNTS: Final[dict[str, int]] = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
AUTO: Final = "auto"
LARGEST: Final = 2**60  # 1 EiB; no host, GPU or model is larger, so more is a typing error

_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_BYTE_WORDS: Final = {
    **{name.lower(): size for name, size in UNITS.items()},
    "": 1, "byte": 1, "bytes": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40,
    "pib": 2**50, "pb": 10**15,
}  # fmt: skip
_COUNT_WORDS: Final = {
    "": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12,
    "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
}  # fmt: skip
_QUANTITY: Final = re.compile(
    r"([+-]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?)\s*([a-z]*)", re.ASCII | re.IGNORECASE
)


def parse_bytes(value: str | float) -> int:
    """Bytes of "76GiB", "2 GB", "80G", "1_000_000" or a whole number; ValueError says what to write instead."""
    if type(value) is int and 0 <= value <= LARGEST:
        return value
    number, factor = _quantity(value, _BYTE_WORDS, 'a size such as "76GiB", "2 GB" or a whole number of bytes')
    if factor == 1 and number.denominator != 1:
        raise ValueError(f'{_shown(value)} is not a whole number of bytes; write a unit, such as "1.5GiB"')
    return int(_in_range(value, number * factor, "size") // 1)


def parse_size(value: str | float) -> int:
    """Bytes as parse_bytes reads them; ValueError for a number alone that is less than any size means (40, of GiB)."""
    size = parse_bytes(value)
    if 0 < size < 2**10 and str(value).strip().isdigit():
        raise ValueError(f'{_shown(value)} alone is bytes; write a unit, such as "{size}GiB"')
    return size


def _fraction(value: str | float) -> float | None:
    """A number between 0 and 1, None of anything else."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 < number < 1 else None


def parse_margin(value: str | float, of: int) -> int:
    """Bytes of a margin: "2GiB" as parse_bytes reads it, or "5%" of `of` bytes, rounded up; ValueError beyond `of`."""
    if isinstance(value, str) and value.strip().endswith("%"):
        margin = -int(-_in_range(value, parse_share(value) * of, "margin") // 1)
    elif share := _fraction(value):
        raise ValueError(f'{value} is neither bytes nor a percentage; write "{100 * share:g}%"')
    else:
        margin = parse_size(value)
    if margin > of:
        raise ValueError(f"{_shown(value)} is more than there is ({format_bytes(of, AUTO)})")
    return margin


def parse_share(value: str) -> Fraction:
    """The part of a whole that "5%" stands for; ValueError otherwise."""
    bare, sign, more = value.strip().partition("%")
    try:
        number, _ = _quantity(bare if sign and not more else "", {"": 1}, "")
    except ValueError:
        raise ValueError(f'{_shown(value)} is not a percentage such as "5%"') from None
    return _in_range(value, number / 100, "percentage")


def parse_count(value: str | float) -> int:
    """The whole number that "7b", "1.5B", "350m", "110e6", "70 billion", 7e9 or 7 stands for; ValueError otherwise."""
    number, factor = _quantity(value, _COUNT_WORDS, 'a count such as "7b", "350m" or a whole number')
    count = _in_range(value, number * factor, "count")
    if count.denominator != 1:
        raise ValueError(f"{_shown(value)} is not a whole number")
    return int(count)


def format_bytes(n: int, unit: str = "GiB") -> str:
    """`n` bytes as "76.00 GiB"; `unit` is one of UNITS, or "auto" for the largest binary unit that leaves at least 1.

    Two digits behind the point (none for bytes, grouped in thousands); less than half a hundredth, and not nothing, is
    "<0.01 GiB". Differences may be negative.
    """
    if unit == AUTO:
        unit = next((u for u in reversed(_BINARY) if _reaches(abs(n), UNITS[u], 1024)), "B")
    if unit == "B":
        return f"{n:,} B"
    return f"{_two_digits(n, UNITS[unit])} {unit}"


def format_count(n: int) -> str:
    """`n` in three to five digits: 6738415616 -> "6.74 B", 350_000_000 -> "350.00 M", 999 -> "999"."""
    name = next((c for c in reversed(COUNTS) if _reaches(abs(n), COUNTS[c], 1000)), "")
    return f"{_two_digits(n, COUNTS[name])} {name}" if name else str(n)


def unit_name(text: str) -> str:
    """The unit as it is written here ("gib" -> "GiB", "AUTO" -> "auto"); ValueError names the nearest."""
    known = {name.lower(): name for name in (*UNITS, AUTO)}
    found = known.get(text.strip().lower())
    if found is None:
        near = ", ".join(nearest_names(text, known.values())) or ", ".join(known.values())
        raise ValueError(f"unknown unit {_shown(text)}; nearest: {near}")
    return found


def _quantity(value: str | float, words: dict[str, int], wanted: str) -> tuple[Fraction, int]:
    """The number in front and the factor its unit stands for."""
    from decimal import Decimal  # noqa: PLC0415 - most sizes are whole numbers already
    from fractions import Fraction  # noqa: PLC0415

    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{_shown(value)} is not {wanted}")  # noqa: TRY004 - one kind of error for one kind of fault
    text = str(value).strip() if isinstance(value, str) else _number_text(value)
    match = _QUANTITY.fullmatch(text) if len(text) <= 64 else None
    if match is None:
        raise ValueError(f"{_shown(value)} is not {wanted}")
    number, word = match[1].replace("_", ""), match[2].lower()
    if word not in words:
        raise ValueError(f"{_shown(value)} has the unknown unit {match[2]!r}; write {wanted}")
    return Fraction(Decimal(number)), words[word]


def _number_text(value: float) -> str:
    """The digits of a number; those of an integer longer than any size are cut short, they are too many anyway."""
    return repr(min(value, 10**40)) if isinstance(value, int) else repr(value)


def _in_range(value: object, number: Fraction, what: str) -> Fraction:
    if number < 0:
        raise ValueError(f"{_shown(value)} is negative; a {what} is 0 or more")
    if number > LARGEST:
        raise ValueError(f"{_shown(value)} is larger than any {what} can be (2^60)")
    return number


def _hundredths(n: int, unit: int) -> int:
    """`n` in hundredths of a unit, halves rounded up."""
    return (200 * n + unit) // (2 * unit)


def _reaches(n: int, unit: int, step: int) -> bool:
    """Whether `n` in the next smaller unit would read as a whole `unit` or more (1024.00 KiB is 1.00 MiB)."""
    return unit == 1 or _hundredths(n, unit // step) >= 100 * step


def _two_digits(n: int, unit: int) -> str:
    whole, part = divmod(_hundredths(abs(n), unit), 100)
    sign = "-" if n < 0 else ""
    return f"{sign}{whole}.{part:02d}" if whole or part or not n else f"{sign}<0.01"


def _shown(value: object) -> str:
    return shorten(repr(value)) if not isinstance(value, int) or abs(value) < LARGEST**2 else "this number"
