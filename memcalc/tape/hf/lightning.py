"""MiniMax-01's lightning attention: linear attention in blocks of tokens, one after the other (modeling_minimax.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.ssm import Lightning
from memcalc.tape import functions as f
from memcalc.tape.hf.activations import activate
from memcalc.tape.loops import loop, runs
from memcalc.tape.recorder import RESIDENT
from memcalc.tape.rules import Around, rule, run
from memcalc.tape.values import Value

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape


@rule(Lightning)
def lightning(t: Tape, block: Lightning, x: Value, around: Around) -> Value:
    """MiniMaxLightningAttention.forward."""
    b, s = x.shape[:2]
    qkv = f.reshape(activate(block.activation, run(t, block.qkv, x, around)), b, s, block.heads, -1)
    q, k, v = (f.transpose(part, 1, 2) for part in f.split(qkv, (block.head_dim,) * 3, 3))
    out = f.reshape(f.transpose(in_blocks(t, block, q, k, v), 1, 2), b, s, -1)
    out = run(t, block.norm, out, around)
    out = f.mul(f.sigmoid(run(t, block.gate, x, around)), out)
    return run(t, block.out, out, around)


def in_blocks(t: Tape, block: Lightning, q: Value, k: Value, v: Value) -> Value:
    """Within each block every pair of tokens; from block to block a state [heads, dim, dim]."""
    b, heads, seq, dim = q.shape
    count, stored = -(-seq // block.chunk), t.setting.weights
    last = seq - (count - 1) * block.chunk
    rates, query_decay, key_decay, pairs = (Value(t, RESIDENT, param.shape, stored) for param in block.own())
    outputs: list[Value] = []

    def step(state: Value) -> Value:
        size = block.chunk if len(outputs) < runs(count) - 1 else last
        q_i, k_i, v_i = (f.narrow(part, 2, size) for part in (q, k, v))
        decay = f.exp(f.scale(f.scale(rates)))
        within = f.matmul(f.mul(f.matmul(q_i, f.swap(k_i)), f.narrow(f.narrow(pairs, 2, size), 3, size)), v_i)
        across = f.matmul(f.mul(q_i, f.narrow(query_decay, 1, size)), state)
        outputs.append(f.add(across, within))
        new = f.matmul(f.swap(f.mul(k_i, f.narrow(key_decay, 1, size))), v_i)
        return f.add(f.mul(state, decay), new)

    loop(t, count, step, t.new((b, heads, dim, dim), v.dtype))
    return f.cat(outputs, -2, seq)
