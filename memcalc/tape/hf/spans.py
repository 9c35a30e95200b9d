"""Splinter's head (modeling_splinter.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.spans import SpanSelection
from memcalc.tape import functions as f
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(SpanSelection)
def span_selection(t: Tape, block: SpanSelection, x: Value, around: Around) -> Value:
    """QuestionAwareSpanSelectionHead.forward: logits of starts, and below them those of ends."""
    batch, _, width = x.shape
    where = f.repeat(t.new((batch, 1, 1), "int64"), width, 2)
    asked = f.take_along(x, where, (batch, 1, width))
    start, end = (run(t, part, asked, around) for part in block.transforms[:2])
    starts, ends = (run(t, part, x, around) for part in block.transforms[2:])
    first, last = block.classifiers
    begin = f.matmul(run(t, first, start, around), f.permute(starts, 0, 2, 1))
    until = f.matmul(run(t, last, end, around), f.permute(ends, 0, 2, 1))
    return f.cat((f.squeeze(begin, 1), f.squeeze(until, 1)), 0)
