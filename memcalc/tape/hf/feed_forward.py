"""Feed-forward blocks: plain and gated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.mlp import Mlp
from memcalc.tape import functions as f
from memcalc.tape.hf import kernels
from memcalc.tape.hf.activations import activate, xielu
from memcalc.tape.hf.basic import dropped, stored
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Mlp)
def mlp(t: Tape, block: Mlp, x: Value, around: Around) -> Value:
    """LlamaMLP.forward: down(act(gate(x)) * up(x)); without a gate down(act(up(x)))."""
    unsloth = kernels.unsloths(t)
    if unsloth and block.gate and not block.norm and unsloth.takes(t, block.gate, block.up, block.down):
        whole: Value = unsloth.mlp(t, block, x)
        return whole
    if block.fused and kernels.takes(t, "mlp"):
        gate, up = f.chunk(run(t, block.up, x, around), 2)
        return run(t, block.down, kernels.gated(gate, up), around)
    if block.fused and block.activation != "gegelu":  # Phi3MLP: halves of one projection, of which one keeps its name
        gate, up = f.chunk(run(t, block.up, x, around), 2)
        product = [f.mul(up, activate(block.activation, gate))]
        if not block.dropout:  # else it has no name (ModernBertMLP)
            up = product[0]
        return closed(t, block, product, around)
    return closed(t, block, [inner(t, block, x, around)], around)


def opened(t: Tape, block: Mlp, given: list[Value], around: Around) -> list[Value]:
    """The first half of one that stands inline: its caller lets go of the input before the second half, or has done so."""
    if block.stepwise:
        return [activate(block.activation, run(t, block.up, given.pop(), around))]
    x = given.pop()
    return [inner(t, block, x, around)]


def closed(t: Tape, block: Mlp, activated: list[Value], around: Around) -> Value:
    """From what is activated, which nobody else holds, to the last projection's output."""
    x = activated.pop()
    if block.norm:
        x = run(t, block.norm, x, around)
    if block.dropout:
        x = dropped(t, x, block.dropout, functional=block.functional)
    if block.widens:
        x = f.to(x, stored(t))
    if block.down and "." in block.down.name:  # of another module: its caller holds on to what it reads (BertOutput)
        around.handed.append(x)
    out = run(t, block.down, x, around)
    if block.adds:
        around.handed += x, out
    return out


def inner(t: Tape, block: Mlp, x: Value, around: Around) -> Value:
    """What goes into the last projection."""
    assert block.up  # noqa: S101 - every Mlp has one
    if block.gate and kernels.takes(t, "mlp"):
        return kernels.gated(run(t, block.gate, x, around), run(t, block.up, x, around))
    if block.gate:
        return f.mul(activate(block.activation, run(t, block.gate, x, around)), run(t, block.up, x, around))
    if block.fused:
        return gegelu(*f.chunk(run(t, block.up, x, around), 2))
    x = run(t, block.up, x, around)
    return xielu(t, x) if block.activation == "xielu" else activate(block.activation, x)


def gegelu(gate: Value, up: Value) -> Value:
    """Phi-3-small's gegelu: quick_gelu(gate) * (up + 1), both clamped where they are finite."""
    gate, up = (f.where(f.compare(part), part, f.clamp(part)) for part in (gate, up))
    return f.mul(activate("quick_gelu", gate), f.shift(up))
