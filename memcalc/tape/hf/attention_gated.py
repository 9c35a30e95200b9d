"""Attention whose output is scaled by a projection of its input; heads of values narrower than their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attend, heads, normed, repeat_kv, separate, sink_column
from memcalc.tape.hf.rotary import rotate, rotated_part
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Attention, "gated", "step")
def gated(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """AfmoeAttention.forward, Step3p7Attention's (a gate for each head)."""
    b, s = x.shape[:2]
    q, k, v = separate(t, block, x, around)
    gate = run(t, block.gate, x, around)
    tables = around.tables(block.rotary_kind)
    if block.rotary_dim and tables:  # Step's joins the rest of a head to it also where nothing is left
        joined = block.formula == "step"
        q, k = rotated_part(q, k, tables, block.rotary_dim) if joined else rotate(block, q, k, tables)
    out = f.reshape(attend(t, block, q, k, v, around), b, s, -1)
    if gate.shape[-1] == block.heads:
        gate, out = f.unsqueeze(gate, -1), f.view(out, b, s, block.heads, -1)
    out = f.mul(out, f.sigmoid(gate))
    return run(t, block.out, f.view(out, b, s, -1), around)


@rule(Attention, "laguna")
def laguna(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """LagunaAttention.forward: norms behind all three projections, a gate (its softplus in fp32) made when it is asked for."""
    b, s = x.shape[:2]
    q, k, v = (run(t, part, x, around) for part in (block.q, block.k, block.v))
    q = heads(normed(t, block.q_norm, q, around), block.heads)
    k = heads(normed(t, block.k_norm, k, around), block.kv_heads)
    v, tables = heads(v, block.kv_heads), around.tables(block.rotary_kind)
    if tables:
        q, k = rotated_part(q, k, tables, block.rotary_dim)
    out = f.reshape(attend(t, block, q, k, v, around), b, s, -1)
    gate = f.to(f.softplus(f.to(run(t, block.gate, x, around), "fp32")), out.dtype)
    if gate.shape[-1] == block.heads:
        gate, out = f.unsqueeze(gate, -1), f.view(out, b, s, block.heads, -1)
    out = f.view(f.mul(out, gate), b, s, -1)
    return run(t, block.out, out, around)


@rule(Attention, "mimo")
def mimo(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """MiMoV2FlashAttention.forward, always eager: scaled values of a width of their own, sinks where it slides."""
    b, s = x.shape[:2]
    q, k = heads(run(t, block.q, x, around), block.heads), heads(run(t, block.k, x, around), block.kv_heads)
    v = f.scale(heads(run(t, block.v, x, around), block.kv_heads))
    tables = around.tables(block.rotary_kind)
    if tables:
        q, k = rotate(block, q, k, tables)
    keys, values = (repeat_kv(part, block.heads // block.kv_heads) for part in (k, v))
    weights = f.scale(f.matmul(q, f.swap(keys)))
    mask = around.mask(block.window)
    if mask is not None:
        weights = f.add(weights, mask)
    columns = weights.shape[-1]
    if block.sinks:
        weights = f.cat((weights, sink_column(t, weights)))
    weights = f.subtract(weights, f.largest(weights))
    chances = f.softmax(weights, weights.dtype)
    chances = f.narrow(chances, -1, columns) if block.sinks else chances
    weights = around.weights = f.to(f.dropout(chances, block.dropout), values.dtype)
    out = f.contiguous(f.transpose(f.matmul(weights, values), 1, 2))
    return run(t, block.out, f.reshape(out, b, s, -1), around)
