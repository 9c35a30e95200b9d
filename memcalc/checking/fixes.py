"""Fixes: the least intrusive single change with which a run keeps within its budget, found by estimating each in turn.

The neighbours and their order (what is free, what costs time, what changes numerics, what must be tuned anew, what trains
something else) are the recommender's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.adapters.spec import Lora
from memcalc.checking.values import Fix
from memcalc.errors import MemcalcError
from memcalc.models import load_model
from memcalc.pipeline import estimate_run
from memcalc.recommender.changes import LEVELS, switch
from memcalc.recommender.space import space
from memcalc.recommender.tasks import task_of
from memcalc.run import Checkpointing, Sharding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memcalc.report import Report
    from memcalc.run import Run

    Holds = Callable[[Report], bool]

HALVINGS = 6
TRIED = ("attention", "loss", "implementation", "checkpointing", "precision", "optimizer", "offload", "sharding")


def fix(run: Run, beside: Path | None, report: Report, holds: Holds) -> Fix | None:
    """The first change, from the least intrusive on, with which `holds` is true of the report.

    Of changes that are as intrusive as each other, one that asks nothing of the host, whose memory and link no config
    names; of those the one that leaves the most memory in use: it gives away the least.
    Where none holds, the change that saves the most; None where none saves anything.
    """
    enough: list[Fix] = []
    others: list[Fix] = []
    reached = -1
    for rank, key, changed in sorted(_neighbours(run, beside), key=lambda item: item[0]):
        if enough and rank > reached:
            break
        other, reached = _estimated(changed, beside), rank
        if other is not None:
            told = _told(run, changed, key, report, other)
            (enough if holds(other) else others).append(told)
    if enough:
        return max(enough, key=lambda told: (told.path != "offload", told.total))
    furthest = min(others, key=lambda told: told.total, default=None)
    return replace(furthest, enough=False) if furthest and furthest.saves > 0 else None


def _neighbours(run: Run, beside: Path | None) -> Iterator[tuple[int, str, Run]]:
    """(how intrusive, key, the run with that key changed) of every single change worth trying."""
    for key, changed in _changed(run, beside):
        told = switch(key, getattr(run, key), getattr(changed, key), run)
        if told:
            yield _rank(key, told.level), key, changed


def _rank(key: str, level: str) -> int:
    """The level's place; a smaller micro batch, with as many more of them, costs time."""
    return LEVELS.index("time" if key == "batch_size" else level)


def _changed(run: Run, beside: Path | None) -> Iterator[tuple[str, Run]]:
    model = load_model(run.model, beside)
    axes = space(run, model, task_of(None, run, model), (), (run.gpus,), given={}).axes
    for key in TRIED:
        yield from ((key, replace(run, **{key: value})) for value in axes[key] if _tried(key, value))
    for halved in range(1, HALVINGS + 1):
        if run.batch_size % 2**halved == 0:
            yield "batch_size", replace(run, batch_size=run.batch_size >> halved, grad_accum=run.grad_accum << halved)
    if run.lora is None and model.kind == "causal-lm" and not run.freeze and not run.train:
        yield "lora", replace(run, lora=Lora(rank=16, targets="all-linear"))


def _tried(key: str, value: Any) -> bool:  # noqa: ANN401 - whatever a key holds
    """Not the modes of checkpointing that few frameworks have, nor strategies that share nothing."""
    if key == "checkpointing":
        return bool(value == Checkpointing(mode="full"))
    return not (key == "sharding" and isinstance(value, Sharding) and value.strategy in ("none", "ddp"))


def _estimated(run: Run, beside: Path | None) -> Report | None:
    try:
        return estimate_run(run, beside)
    except MemcalcError:  # a framework refuses it
        return None


def _told(run: Run, changed: Run, key: str, report: Report, other: Report) -> Fix:
    told = switch(key, getattr(run, key), getattr(changed, key), run)
    assert told  # noqa: S101 - a neighbour differs
    more = f"with grad_accum {run.grad_accum} → {changed.grad_accum}" if key == "batch_size" else told.why
    return Fix(path=key, before=told.before, after=told.after, level=LEVELS[_rank(key, told.level)],
               saves=report.memory.total - other.memory.total, total=other.memory.total, why=more)  # fmt: skip
