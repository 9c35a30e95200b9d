"""The counters in a file: a text that holds them by name (presets/overheads/counters.yaml), or a memory snapshot."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from memcalc.presets import find
from memcalc.reading import STDIN, read_text, source_name
from memcalc.units import parse_bytes
from memcalc.verifying.values import Measured

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST_LOG = 256 * 2**20
PICKLES = (".pickle", ".pkl")


class Counter(NamedTuple):
    """A counter that programs write: its pattern, the figure it is of, the unit of its numbers."""

    pattern: re.Pattern[str]
    path: str
    unit: str


def counters(file: str) -> list[Measured]:
    """Every counter of a file ("-": standard input) that is not 0, as often as it stands there.

    UnreadableInput where it can't be read.
    """
    if file != STDIN and Path(file).suffix in PICKLES:
        from memcalc.verifying.snapshot import peaks  # noqa: PLC0415 - few have one

        return peaks(file)
    return [one for one in _found(read_text(file, LARGEST_LOG), source_name(file)) if one.bytes]


def _found(text: str, source: str) -> Iterator[Measured]:
    for counter in known():
        for match in counter.pattern.finditer(text):
            size = parse_bytes(f"{match['value'].rstrip('.')} {match.groupdict().get('unit') or counter.unit}")
            yield Measured(counter.path, size, f"{source}:{text.count(chr(10), 0, match.start('value')) + 1}")


@lru_cache(maxsize=1)
def known() -> tuple[Counter, ...]:
    """The counters of the preset, each ready to be looked for."""
    return tuple(
        Counter(_pattern(row), row["figure"], row["unit"]) for row in find("overheads", "counters")["counters"]
    )


def _pattern(row: dict[str, Any]) -> re.Pattern[str]:
    """What finds a counter: the row's own expression, or its key before a number: `key: 1`, `"key": "1"`, `('key', 1)`."""
    if "line" in row:
        return re.compile(row["line"], re.MULTILINE)
    return re.compile(rf"(?<![\w./-]){re.escape(row['key'])}['\"]?\s*[:=,]\s*['\"]?(?P<value>[0-9]+(?:\.[0-9]+)?)")
