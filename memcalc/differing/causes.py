"""Causes: one key of a run after the other is given its new value, and each step is estimated.

The steps telescope: whatever the order, the differences that they make add up to the whole.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from memcalc.differing.values import Cause
from memcalc.errors import MemcalcError
from memcalc.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcalc.report import Report

IGNORED = ("budget", "margin")  # they move no byte


class Step(NamedTuple):
    """What changed, and the report with it and everything before it changed."""

    cause: Cause
    report: Report


def steps(before: Run, after: Run, last: Report, estimated: Callable[[Run], Report]) -> Iterator[Step]:
    """From the one run to the other, key by key; keys that a framework refuses to change alone go with the next.

    `last` is the report on `after`, where the last step ends.
    """
    keys = [f.name for f in fields(Run) if f.name not in IGNORED and getattr(before, f.name) != getattr(after, f.name)]
    now, waiting = before, []
    for key in keys:
        now = replace(now, **{key: getattr(after, key)})
        waiting.append(key)
        if key == keys[-1]:
            yield Step(_cause(waiting, before, after), last)
            return
        try:
            report = estimated(now)
        except MemcalcError:
            continue
        yield Step(_cause(waiting, before, after), report)
        waiting = []


def _cause(keys: list[str], before: Run, after: Run) -> Cause:
    if len(keys) == 1:
        path, old, new = narrowed(keys[0], getattr(before, keys[0]), getattr(after, keys[0]))
        return Cause(path=path, before=plain(old), after=plain(new))
    told = [(plain(getattr(before, key)), plain(getattr(after, key))) for key in keys]
    return Cause(path=", ".join(keys), before=[old for old, _ in told], after=[new for _, new in told])


def narrowed(path: str, old: Any, new: Any) -> tuple[str, Any, Any]:  # noqa: ANN401 - whatever a key holds
    """The one thing below a key that differs, where it is one: lora.rank rather than lora."""
    if is_dataclass(old) and type(old) is type(new) and not isinstance(old, type):
        differing = [f.name for f in fields(old) if getattr(old, f.name) != getattr(new, f.name)]
        if len(differing) == 1:
            inner = differing[0]
            return narrowed(f"{path}.{inner}", getattr(old, inner), getattr(new, inner))
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if len(keys) == 1:
            return narrowed(f"{path}.{keys[0]}", old.get(keys[0]), new.get(keys[0]))
    return path, old, new


def plain(value: Any) -> Any:  # noqa: ANN401
    """A value as a run file would hold it: what is not a default of its mapping."""
    from memcalc.recommender.changes import plain as written  # noqa: PLC0415 - it knows shorthands

    return written(value)
