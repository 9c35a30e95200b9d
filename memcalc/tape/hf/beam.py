"""Beam (modeling_beam.py): gated attention, activations in fp32, sums weighed by depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.beam import WeighedResidual
from memcalc.blocks.mlp import Mlp
from memcalc.tape import functions as f
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.attention import attend, separate
from memcalc.tape.hf.rotary import rotate
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(WeighedResidual)
def weighed(t: Tape, block: WeighedResidual, x: Value, around: Around) -> Value:
    """Half of BeamDecoderLayer.forward: depth_scaled_residual_add."""
    y = x
    for part in block.blocks:
        y = run(t, part, y, around)
    return f.add(f.scale(y), f.scale(x))


@rule(Attention, "beam")
def beam(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """BeamAttention.forward: without positions queries are scaled in fp32 by how many keys they see."""
    b, s = x.shape[:2]
    q, k, v = separate(t, block, x, around)
    tables = around.tables(block.rotary_kind)
    if block.rotary_dim and tables:
        q, k = rotate(block, q, k, tables)
    else:
        q = f.to(f.scale(f.to(q, "fp32")), q.dtype)
    out = attend(t, block, q, k, v, around)
    gate = f.view(run(t, block.gate, x, around), b, s, block.heads, block.head_dim)
    gate = f.add(gate, f.reshape(t.weight("gate_bias", (block.heads,)), 1, 1, block.heads, 1))
    out = f.mul(out, f.sigmoid(gate))
    return run(t, block.out, f.reshape(out, b, s, -1), around)


@rule(Mlp, "beam")
def wide_mlp(t: Tape, block: Mlp, x: Value, around: Around) -> Value:
    """BeamMLP.forward: the activation and the product in fp32."""
    gate, up = run(t, block.gate, x, around), run(t, block.up, x, around)
    inner = f.to(f.mul(activate(block.activation, f.to(gate, "fp32")), f.to(up, "fp32")), gate.dtype)
    return run(t, block.down, inner, around)
