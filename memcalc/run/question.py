"""Question: a Run with where it was written, so that whatever is found wrong later is told with its place."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from memcalc.dataclass import dataclass
from memcalc.errors import RunInvalid
from memcalc.run.meant import readings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from memcalc.configs.reading import Reading
    from memcalc.notes import Remark
    from memcalc.report import Note
    from memcalc.run import Run

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """A run, the folder its relative paths start from, what to call its source, and where each of its keys stands.

    `given` are the keys that were said, rather than left to their defaults. `reading` is what another tool's config was
    read as, where the run comes from one; `meant` what is to be said of values that were read as what is likely meant.
    """

    run: Run
    beside: Path | None = None
    source: str = "the run"
    place: Callable[[str], str] | None = None
    reading: Reading | None = None
    given: frozenset[str] = frozenset()
    meant: tuple[Remark, ...] = ()

    def says(self, key: str) -> bool:
        """Whether a key of the run is said, by its file or beside it; a framework's default says nothing."""
        origin = self.reading.origins.get(key) if self.reading else None
        return key in self.given and not (origin and origin.default)

    def answer(self, function: Callable[[Run, Path | None], T]) -> T:
        """What a function of the pipeline makes of the run; faults it finds in the run get their places in the file."""
        try:
            made = function(self.run, self.beside)
        except RunInvalid as error:
            if self.place is None or error.source != "the run":
                raise
            raise error.placed(self.place, self.source) from error
        said: T = _said(made, self)
        return said if self.reading is None else _told(said, self.reading)


@dataclass(frozen=True)
class Draft:
    """A mapping in the run vocabulary, not validated yet, with what its Question will hold.

    `beside` is the folder that relative paths of a run file start from; those of a reading start where the command runs.
    """

    given: Mapping[str, Any]
    source: str
    place: Callable[[str], str] | None = None
    beside: Path | None = None
    reading: Reading | None = None

    def over(self, said: Mapping[str, Any], where: str = "the call") -> Draft:
        """The draft where keys of a run file are `said` elsewhere instead."""
        if not said:
            return self
        reading = self.reading.overridden({key: key for key in said}, where) if self.reading else None
        place = reading.place if reading else self.place
        told = (lambda path: path if path.split(".")[0] in said else place(path)) if place else None
        return replace(self, given={**self.given, **said}, place=told, reading=reading)

    def question(self) -> Question:
        """The run, validated; RunInvalid lists its faults, each at its place."""
        from memcalc.run.validation import parse_run  # noqa: PLC0415 - a Run needs no validation

        return Question(parse_run(self.given, self.source, self.place), self.beside, self.source, self.place,
                        self.reading, frozenset(self.given), readings(self.given))  # fmt: skip


def _said(answer: Any, asked: Question) -> Any:  # noqa: ANN401 - any kind of answer
    """The answer with how values were read; what was said is no default that was assumed."""
    if not hasattr(answer, "assumptions"):
        return answer
    own = [n for n in answer.assumptions if n.code != "default" or n.path not in asked.given]
    if len(own) == len(answer.assumptions) and not asked.meant:
        return answer
    return replace(answer, assumptions=(*_notes(asked.meant), *own))


def _notes(remarks: Iterable[Remark]) -> tuple[Note, ...]:
    from memcalc.report import Note  # noqa: PLC0415 - few runs come from another tool's config

    return tuple(Note(code=r.code, path=r.path, message=r.message) for r in remarks)


def _told(answer: Any, reading: Reading) -> Any:  # noqa: ANN401 - any kind of answer
    """The answer with the origins of the run's values, and with what was noted when they were read.

    An answer without origins (a recommendation) is told the warnings alone. That a value is a default of ours is no
    longer an assumption where the config says it.
    """
    from memcalc.report import Origin, Source  # noqa: PLC0415 - few runs come from another tool's config

    known = {field.name for field in fields(answer)}
    if "origins" not in known:
        left = _notes(reading.warnings) if "warnings" in known else ()
        return replace(answer, warnings=(*left, *answer.warnings)) if left else answer
    said = {path.split(".")[0] for path in reading.origins}
    own = tuple(n for n in answer.assumptions if n.code != "default" or n.path not in said)
    return replace(
        answer,
        source=Source(format=reading.format, file=reading.source),
        origins={
            path: Origin(file=o.file, line=o.line, key=o.key, default=o.default)
            for path, o in sorted(reading.origins.items())
        },
        assumptions=(*_notes(reading.assumptions), *own),
        warnings=(*_notes(reading.warnings), *answer.warnings),
    )
