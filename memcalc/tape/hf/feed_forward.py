"""Feed-forward blocks: plain and gated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.mlp import Mlp
from memcalc.tape import functions as f
from memcalc.tape.hf.basic import activate
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Mlp)
def mlp(t: Tape, block: Mlp, x: Value, around: Around) -> Value:
    """LlamaMLP.forward: down(act(gate(x)) * up(x)); without a gate down(act(up(x)))."""
    assert block.up and block.down  # noqa: S101 - every Mlp has them
    if block.gate:
        x = f.mul(activate(block.activation, run(t, block.gate, x, around)), run(t, block.up, x, around))
        return run(t, block.down, x, around)
    x = run(t, block.up, x, around)
    x = activate(block.activation, x)
    x = run(t, block.down, x, around)
    return f.dropout(x, block.dropout)
