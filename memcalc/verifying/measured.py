"""What was measured: sizes that somebody names, or the counters in a file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from memcalc.errors import UnreadableInput, UsageError, nearest_names, shorten
from memcalc.paths import exists
from memcalc.report import Components, Outside, Phases
from memcalc.units import parse_bytes
from memcalc.verifying.files import counters
from memcalc.verifying.values import Measured

if TYPE_CHECKING:
    from collections.abc import Iterable

PARTS: Final = {"components": Components, "phases": Phases, "outside_allocator": Outside}
FIGURES: Final = (
    "peak_allocated", "reserved", "total", "persistent",
    *(f"{part}.{field.name}" for part, kind in PARTS.items() for field in fields(kind)),
)  # fmt: skip
ALSO: Final = {"max_memory_allocated": "peak_allocated", "allocated": "peak_allocated", "max_memory_reserved": "reserved",
               "nvidia_smi": "total"}  # fmt: skip


def measured(told: Iterable[str]) -> list[Measured]:
    """What each of the texts says: FIGURE=SIZE, or the name of a file that holds counters; of a figure the most.

    UsageError where nothing is named, or no such figure; UnreadableInput where a file holds no counter.
    """
    most: dict[str, Measured] = {}
    for text in told:
        for one in _read(text):
            if one.path not in most or one.bytes > most[one.path].bytes:
                most[one.path] = one
    if not most:
        raise UsageError(
            "what was measured? Name it with --measured reserved=41.2GiB, or --measured FILE: memory_stats() as JSON, "
            "a log, a memory snapshot"
        )
    return sorted(most.values(), key=lambda one: FIGURES.index(one.path))


def _read(text: str) -> list[Measured]:
    name, equals, size = text.partition("=")
    if equals and not exists(Path(text)):
        return [Measured(_figure(name), _size(name, size), "as told")]
    found = counters(text)
    if not found:
        raise UnreadableInput(
            f"{shorten(text)} holds no counter of memory that memcalc knows; name the figure: --measured reserved=41.2GiB"
        )
    return found


def _figure(name: str) -> str:
    """The path of a figure, under the name it has in the report or in PyTorch."""
    asked = name.strip().lower().replace("-", "_").removeprefix("memory.")
    for path in (asked, ALSO.get(asked), f"components.{asked}"):
        if path in FIGURES:
            return path
    near = nearest_names(asked, (*FIGURES, *ALSO))
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(f"--measured {shorten(name)}: no such figure; {hint}there are {', '.join(FIGURES)}")


def _size(name: str, text: str) -> int:
    try:
        size = parse_bytes(text.strip())
    except ValueError as error:
        raise UsageError(f"--measured {shorten(name)}: {error}") from error
    if size == 0:
        raise UsageError(f"--measured {shorten(name)}: nothing was measured, so nothing can be held to it")
    return size
