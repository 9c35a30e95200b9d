"""Nyströmformer's attention where there are as many landmarks as segments hold tokens (modeling_nystromformer.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.landmarks import SkippedAttention
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import project, separate
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(SkippedAttention, "nystromformer")
def nystromformer(t: Tape, block: SkippedAttention, x: Value, around: Around) -> Value:
    """NystromformerAttention.forward."""
    out = context(t, block, x, around)
    around.handed.append(out)
    return project(t, block, out, around)


def context(t: Tape, block: SkippedAttention, x: Value, around: Around) -> Value:
    """NystromformerSelfAttention.forward: queries and keys both scaled, no dropout, the convolution's output added in place."""
    q, k, v = separate(t, block, x, around)
    q = f.scale(q)
    k = f.scale(k)
    scores = f.matmul(q, f.swap(k))
    mask = around.mask(0)
    if mask is not None:
        scores = f.add(scores, mask)
    weights = f.softmax(scores)
    out = f.matmul(weights, v)
    if block.skip:
        out = f.add_(out, run(t, block.skip, v, around))
    out = f.contiguous(f.permute(out, 0, 2, 1, 3))
    del scores, weights  # names of the function
    return out
