"""Question: a Run with where it was written, so that whatever is found wrong later is told with its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from memcalc.errors import RunInvalid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memcalc.run import Run

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """A run, the folder its relative paths start from, what to call its source, and where each of its keys stands."""

    run: Run
    beside: Path | None = None
    source: str = "the run"
    place: Callable[[str], str] | None = None

    def answer(self, function: Callable[[Run, Path | None], T]) -> T:
        """What a function of the pipeline makes of the run; faults it finds in the run get their places in the file."""
        try:
            return function(self.run, self.beside)
        except RunInvalid as error:
            if self.place is None or error.source != "the run":
                raise
            raise error.placed(self.place, self.source) from error
