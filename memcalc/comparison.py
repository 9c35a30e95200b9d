"""Compare: runs side by side, each difference traced to the key of the run that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from memcalc.dataclass import dataclass
from memcalc.differing import Change, parts
from memcalc.differing.causes import steps
from memcalc.document import Document
from memcalc.errors import MemcalcError, UsageError
from memcalc.pipeline import estimate_run, load
from memcalc.report import GpuPart, Memory, ModelPart, Verdict
from memcalc.run.varying import all_varied

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from memcalc.report import Report
    from memcalc.run import Run
    from memcalc.run.question import Question

MOST = 256  # runs of one comparison


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One run: `differs` are the keys in which it differs from others, `changes` what each did since the first run.

    `error` where the run is refused; then there are no figures.
    """

    name: str
    differs: Mapping[str, Any]
    run: Mapping[str, Any] = field(default_factory=dict)
    model: ModelPart | None = None
    memory: Memory | None = None
    gpu: GpuPart | None = None
    verdict: Verdict | None = None
    changes: tuple[Change, ...] = ()
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison(Document):
    """The answer of `memcalc compare`; the first of `runs` is what the others are held against.

    `changes` are those of all runs, each with the name of its own.
    """

    schema_version: Literal["1.0"] = "1.0"
    kind: Literal["compare"] = "compare"
    runs: tuple[Compared, ...]
    changes: tuple[Change, ...] = ()
    swept: tuple[str, ...] = ()


def compare(
    *sources: Run | Mapping[str, Any] | str | Path, sweep: Mapping[str, Iterable[Any]] | None = None
) -> Comparison:
    """Runs side by side: each source as `memcalc.estimate` takes it, and each with every combination of the swept values.

    Raises what `memcalc.estimate` does for a source; a combination that is refused is told in its row.
    """
    axes = {key: tuple(values) for key, values in (sweep or {}).items()}
    return compare_questions(
        [(str(source) if isinstance(source, str) else "", load(source)) for source in sources], axes
    )


def compare_questions(questions: Iterable[tuple[str, Question]], axes: Mapping[str, tuple[Any, ...]]) -> Comparison:
    """The same for questions with their names; UsageError where there are too many runs."""
    every = [(name, values, question) for name, question in questions for values in _combinations(axes)]
    if not every or len(every) > MOST:
        raise UsageError(f"compare takes 1 to {MOST} runs, not {len(every)}")
    rows: list[Compared] = []
    first: tuple[Run, Report] | None = None
    refused: MemcalcError | None = None
    for name, values, question in every:
        try:
            made = replace(question, run=all_varied(question.run, values))
            report = made.answer(estimate_run)
        except MemcalcError as error:
            refused = refused or error
            if not values:
                raise
            rows.append(Compared(name=name, differs=values, error=str(error)))
            continue
        changes = tuple(_changes(name, first, made, report)) if first else ()
        first = first or (made.run, report)
        rows.append(Compared(name=name, differs=values, run=report.run, model=report.model, memory=report.memory,
                             gpu=report.gpu, verdict=report.verdict, changes=changes))  # fmt: skip
    if first is None and refused is not None:
        raise refused  # not one of them: the sweep itself is wrong
    every_change = tuple(change for row in rows for change in row.changes)
    return Comparison(runs=_told_apart(rows), changes=every_change, swept=tuple(axes))


def _combinations(axes: Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    for values in product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _changes(name: str, first: tuple[Run, Report], made: Question, report: Report) -> Iterator[Change]:
    """What every key did to every part, since the first run."""
    run, before = first[0], parts(first[1])
    for step in steps(run, made.run, report, lambda middle: estimate_run(middle, made.beside)):
        after = parts(step.report)
        for part, nbytes in after.items():
            if before[part] != nbytes:
                yield Change(name=name, component=part, before=before[part], after=nbytes, cause=step.cause)
        before = after


def _told_apart(rows: list[Compared]) -> tuple[Compared, ...]:
    """Rows that were not swept told apart by the keys in which their runs differ."""
    known = [row for row in rows if row.run]
    keys = [
        key
        for key in (known[0].run if known else {})
        if any(row.run.get(key) != known[0].run.get(key) for row in known)
    ]
    return tuple(
        row if row.differs or not row.run else replace(row, differs={key: row.run.get(key) for key in keys})
        for row in rows
    )
