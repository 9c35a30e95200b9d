"""Explain a run: where each byte comes from, which peak binds, and what is often said of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.explanation.claims import corrections
from memcalc.explanation.kinds import Kinds
from memcalc.explanation.persistent import held, layers
from memcalc.explanation.stepping import temporaries
from memcalc.explanation.thumbs import thumbs
from memcalc.explanation.transient import at_peak, kept, peaks, trace
from memcalc.explanation.values import Explanation, Live
from memcalc.pipeline import fullest_plan, gpu_part, load, memory_of, model_part
from memcalc.report import Note
from memcalc.resolve import resolve, resolved_run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from memcalc.run import Run

__all__ = ["Explanation", "explain", "explain_run"]


def explain(source: Run | Mapping[str, Any] | str | Path) -> Explanation:
    """Where the memory of a run goes: takes and raises what `memcalc.estimate` does."""
    return load(source).answer(explain_run)


def explain_run(run: Run, beside: Path | None = None) -> Explanation:
    """The explanation of a validated Run; `beside` is the folder its relative paths start from."""
    whole = resolve(run, beside)
    plan = fullest_plan(whole)
    book = plan.ledger()
    memory = memory_of(plan, book)
    if plan.companions:
        plan.notes.warn(
            "companions", "not-itemised", "the rows are those of the model itself: companions are in the totals alone"
        )
    step = trace(plan)
    forward = kept(step) if step else None
    live = at_peak(step, temporaries(plan, step.timeline.step_temporaries)) if step else None
    return Explanation(
        run=resolved_run(whole),
        model=model_part(whole),
        gpu=gpu_part(plan),
        peak_allocated=memory.peak_allocated,
        peak_phase=memory.peak_phase,
        peaks=peaks(step) if step else (),
        persistent=held(plan, book),
        layers=layers(book, Kinds(plan.model)),
        kept=forward or Live(bytes=0),
        at_peak=memory.at_peak,
        live=live or Live(bytes=0),
        rules_of_thumb=thumbs(plan, book, forward),
        corrections=corrections(plan, book, memory.total),
        assumptions=tuple(Note(code=n.code, path=n.path, message=n.message) for n in plan.notes.assumptions),
        warnings=tuple(Note(code=n.code, path=n.path, message=n.message) for n in plan.notes.warnings),
    )
