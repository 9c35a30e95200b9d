"""From a mapping to a Run: shorthands written out, a quick look, and pydantic's judgement where anything is in doubt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.run import Run
from memcalc.run.conform import Doubt, conform
from memcalc.run.spelling import spelled_out

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def parse_run(given: Mapping[str, Any], source: str = "the run", place: Callable[[str], str] | None = None) -> Run:
    """A Run from a mapping in the run vocabulary; RunInvalid lists all its faults with their places."""
    try:
        return conform(Run, spelled_out(given))
    except Doubt:
        from memcalc.run.faults import judge  # noqa: PLC0415 - pydantic is slow to load

        return judge(given, source, place)
