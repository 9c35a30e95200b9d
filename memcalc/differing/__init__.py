"""diff: two runs, or two versions of configs under git; what each component takes before and after, and why."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from memcalc.differing.causes import Step, steps
from memcalc.differing.values import Cause, Change, Difference, Pair, Side
from memcalc.errors import MemcalcError
from memcalc.pipeline import estimate_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from memcalc.report import Report
    from memcalc.run import Run
    from memcalc.run.question import Question

__all__ = ["Cause", "Change", "Difference", "Pair", "Side", "Version", "compared", "diff"]


class Version(NamedTuple):
    """One side of a comparison: what to call it, and how to ask for it; no `ask` where it does not exist."""

    source: str
    ask: Callable[[], Question] | None


def diff(before: str, after: str, over: Mapping[str, Any] | None = None) -> Difference:
    """What changed from one config (or model) to another, and why; keys of `over` win over both.

    >>> memcalc.diff("old.yaml", "new.yaml", over={"gpu": "h100-80gb"}).changes
    """
    from memcalc.run.asking import question_of  # noqa: PLC0415

    told = tuple((over or {}).items())
    first, second = (Version(source, lambda source=source: question_of(source, told)) for source in (before, after))  # type: ignore[misc]
    return compared([(after, first, second)], alone=True)


def compared(versions: Iterable[tuple[str, Version, Version]], *, alone: bool = False) -> Difference:
    """(name, before, after) of each config; one that can't be read is told in its pair, unless it is `alone`."""
    runs: list[Side] = []
    pairs: list[Pair] = []
    changes: list[Change] = []
    for name, before, after in versions:
        try:
            sides, found = _compared(name, before, after)
        except MemcalcError as error:
            if alone:
                raise
            pairs.append(Pair(name=name, before=None, after=None, error=str(error)))
            continue
        places = [
            None if side is None else len(runs) + sum(s is not None for s in sides[:i]) for i, side in enumerate(sides)
        ]
        runs += [side for side in sides if side]
        pairs.append(Pair(name=name, before=places[0], after=places[1]))
        changes += found
    return Difference(runs=tuple(runs), pairs=tuple(pairs), changes=tuple(changes))


def _compared(name: str, before: Version, after: Version) -> tuple[list[Side | None], list[Change]]:
    old, new = _asked(before), _asked(after)
    sides = [side and _side(name, version.source, side[1]) for version, side in ((before, old), (after, new))]
    if old is None or new is None:
        cause = Cause(path="file", before=before.source if old else None, after=after.source if new else None)
        return sides, _changes(name, old and old[1], [(cause, new and new[1])])
    question = new[0]

    def estimated(run: Run) -> Report:
        return estimate_run(run, question.beside)

    return sides, _changes(
        name, old[1], [*_moved(before, after, old, question), *steps(old[0].run, question.run, new[1], estimated)]
    )


def _moved(before: Version, after: Version, old: tuple[Question, Report], new: Question) -> list[tuple[Cause, Report]]:
    """What the files did that a run names and that are not the same on both sides, its words being so."""
    if old[0].beside == new.beside:
        return []
    try:
        report = estimate_run(old[0].run, new.beside)
    except MemcalcError:  # the old words name a file that went
        return []
    cause = Cause(path="files that it names", before=before.source, after=after.source)
    return [(cause, report)] if parts(report) != parts(old[1]) else []


def _asked(version: Version) -> tuple[Question, Report] | None:
    if version.ask is None:
        return None
    question = version.ask()
    return question, question.answer(estimate_run)


def _side(name: str, source: str, report: Report) -> Side:
    from memcalc.render.summary import headline  # noqa: PLC0415

    return Side(name=name, source=source, headline=headline(report), run=report.run, model=report.model,
                memory=report.memory, gpu=report.gpu, verdict=report.verdict)  # fmt: skip


def _changes(name: str, first: Report | None, walk: Iterable[Step | tuple[Cause, Report | None]]) -> list[Change]:
    """What every step did to every part."""
    found: list[Change] = []
    before = parts(first)
    for cause, report in walk:
        after = parts(report)
        found += [Change(name=name, component=part, before=before[part], after=after[part], cause=cause)
                  for part in after if before[part] != after[part]]  # fmt: skip
        before = after
    return found


def parts(report: Report | None) -> dict[str, int]:
    """What the peak is made of, what lies beside it, and the total, whose parts they are."""
    from memcalc.report import Components  # noqa: PLC0415

    if report is None:
        return dict.fromkeys((*asdict(Components()), "cache", "outside", "total"), 0)
    memory = report.memory
    outside = memory.outside_allocator
    return {**asdict(memory.at_peak), "cache": memory.reserved - memory.peak_allocated,
            "outside": outside.context + outside.communicators, "total": memory.total}  # fmt: skip
