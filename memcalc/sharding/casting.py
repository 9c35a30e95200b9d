"""The one message of ZeRO's BF16_Optimizer, at the end of the backward pass.

Source: DeepSpeed 0.19.8, runtime/bf16_optimizer.py and runtime/engine.py (buffered_allreduce_fallback).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.dtypes import BITS
from memcalc.sharding.marks import Marking
from memcalc.tape.laid import Laid
from memcalc.tape.values import rounded
from memcalc.timeline.slices import schedule

if TYPE_CHECKING:
    from memcalc.sharding.flat import Flat
    from memcalc.sharding.zero12 import Bf16Optimizer
    from memcalc.tape.recorder import Tape
    from memcalc.tape.step import Recording


class Casting(Marking):
    """BF16_Optimizer's hook: the fp32 gradients of all parameters are sent in one piece, cast for it (allreduce_no_retain)."""

    def __init__(self, tape: Tape, strategy: Bf16Optimizer, flat: Flat) -> None:
        super().__init__(tape, takes=False)
        self.strategy, self.flat = strategy, flat

    def laid(self, recording: Recording) -> Recording:
        """A copy at the end of the backward pass."""
        if self.strategy.sent_dtype == "fp32":
            return recording
        nbytes = rounded(self.flat.size * BITS[self.strategy.sent_dtype] // 8)
        last = len(schedule(recording)) - 1
        both = [Laid(recording.end, "temporary", nbytes), Laid(recording.end, "temporary", -nbytes)]
        return replace(recording, overlay={last: both})
