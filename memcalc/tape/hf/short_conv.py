"""LFM2's short gated convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.ssm import ShortConv
from memcalc.tape import functions as f
from memcalc.tape.hf.basic import stored
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(ShortConv)
def short_conv(t: Tape, block: ShortConv, x: Value, around: Around) -> Value:
    """Lfm2ShortConv.forward: out_proj(C * conv(B * x)), the convolution padded on both sides and cut."""
    seq = x.shape[1]
    bcx = f.transpose(run(t, block.in_proj, x, around), 1, 2)
    gate, scale, x = f.chunk(bcx, 3, 1)
    hidden = f.mul(gate, x)
    made = run(t, block.conv, f.to(hidden, stored(t)), around)  # causal_conv1d's fallback: in the weight's dtype
    hidden = f.to(f.narrow(made, -1, seq), hidden.dtype)
    del made
    y = f.mul(scale, hidden)
    y = f.contiguous(f.transpose(y, 1, 2))
    y = run(t, block.out_proj, y, around)
    del hidden  # an argument's name: it goes before the others
    return y
