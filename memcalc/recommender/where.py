"""In which part of a step a run is at its highest: forward, backward, the loss between them, or the optimizer's step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.explanation.transient import peaks, trace

if TYPE_CHECKING:
    from memcalc.plan import Plan

WORDS = {
    "forward": "the forward pass",
    "backward": "the backward pass",
    "loss": "the loss",
    "optimizer": "the optimizer step",
}


def binding(plan: Plan) -> str:
    """The part of the step in which memory is highest, in words; '' where the step was not followed."""
    step = trace(plan)
    return WORDS[peaks(step)[0].part] if step else ""
