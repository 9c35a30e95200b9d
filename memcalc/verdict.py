"""The verdict: does it fit, by how much, and in what words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.report import Memory, Verdict
from memcalc.units import format_bytes

if TYPE_CHECKING:
    from memcalc.plan import Plan


def verdict(plan: Plan, memory: Memory) -> Verdict:
    """fits: total within usable - margin; tight: only the allocated peak is; too-big: not even that."""
    card = plan.gpu
    if card is None:
        return Verdict(
            fits=None,
            level="unknown",
            headroom=None,
            reason="no GPU is named, so whether it fits is open; name one with --gpu",
        )
    room = card.usable - plan.margin
    headroom = room - memory.total
    where = f"the {format_bytes(room)} usable on {card.name}"
    included = _included(plan)
    if headroom >= 0:
        return Verdict(fits=True, level="fits", headroom=headroom,
                       reason=f"{included}{format_bytes(memory.total)} of {where}; {format_bytes(headroom)} to spare")  # fmt: skip
    allocated = memory.peak_allocated + memory.total - memory.reserved
    if allocated <= room:
        return Verdict(fits=False, level="tight", headroom=headroom,
                       reason=f"the allocated peak fits {where}, the reserved memory does not: {_then(plan)}")  # fmt: skip
    return Verdict(fits=False, level="too-big", headroom=headroom,
                   reason=f"{included}{format_bytes(memory.total)} is {format_bytes(-headroom)} more than {where}")  # fmt: skip


def _then(plan: Plan) -> str:
    """What PyTorch does then, or could be spared."""
    return "slower" if plan.run.expandable_segments else "slower, or needs expandable segments"


def _included(plan: Plan) -> str:
    missing = any(note.code == "activations-not-included" for note in plan.notes.warnings)
    return "without activations: " if missing else ""
