"""Kimi delta attention without kernels: decays of every channel, so every pair of tokens of a chunk has one for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.ssm import KimiDelta
from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record, save
from memcalc.tape.hf.dual import causal_conv
from memcalc.tape.hf.gated_delta import by_chunk, l2_norm
from memcalc.tape.loops import loop
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.basic import Norm
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

SIZE = 64  # tokens of a chunk


@rule(KimiDelta, "kimi")
def kimi_delta(t: Tape, block: KimiDelta, x: Value, around: Around) -> Value:
    """KimiLinearDeltaAttention.forward, and BailingHybridDeltaAttention's (modeling_kimi_linear.py)."""
    b, s = x.shape[:2]
    beta, *gates = block.projections[3:]
    width = block.value_heads * block.value_dim
    qkv = f.transpose(f.cat([run(t, part, x, around) for part in block.projections[:3]]), 1, 2)
    qkv = f.transpose(causal_conv(t, block.conv, qkv, block.activation), 1, 2)  # type: ignore[arg-type]
    q, k, v = (f.view(part, b, s, -1, block.value_dim) for part in f.split(qkv, (width, width, width)))
    out = chunks(t, q, k, v, decay(t, block, x, around), f.sigmoid(run(t, beta, x, around)))
    gate = x
    for part in gates:
        gate = run(t, part, gate, around)
    out = gated_norm(t, block.norm, out, f.view(gate, *out.shape))  # type: ignore[arg-type]
    return run(t, block.out_proj, f.reshape(out, b, s, -1), around)


def decay(t: Tape, block: KimiDelta, x: Value, around: Around) -> Value:
    """KimiLinearForgetGate.forward, or with one projection BailingHybridForgetGate's: [batch, seq, heads, dim]."""
    shape = (*x.shape[:2], block.value_heads, block.value_dim)
    bias = t.weight("forget_gate.dt_bias", (block.value_heads * block.value_dim,))
    rate = t.weight("forget_gate.A_log", block.decay_shape)
    g = x
    for part in block.forget:
        g = run(t, part, g, around)
    if len(block.forget) == 1:
        g = f.add(f.view(f.to(g, "fp32"), *shape), f.view(bias, 1, 1, *shape[2:]))
        g = f.sigmoid(f.mul(f.view(f.exp(rate), 1, 1, -1, 1), g))
        return f.to(f.scale(g), x.dtype)
    g = f.view(f.add(f.to(g, "fp32"), f.to(bias, "fp32")), *shape)
    rate = f.exp(f.to(rate, "fp32"))
    soft = f.where(f.compare(g), g, f.log(f.shift(f.exp(g))))
    return f.mul(f.neg(rate), soft)


def chunks(t: Tape, q: Value, k: Value, v: Value, g: Value, beta: Value) -> Value:
    """chunk_kimi_delta_attention: in fp32, by heads, padded to whole chunks."""
    dtype, seq = q.dtype, q.shape[1]
    q, k, v, beta, g = (f.to(f.contiguous(f.transpose(part, 1, 2)), "fp32") for part in (q, k, v, beta, g))
    q, k = l2_norm(q), l2_norm(k)
    extra = -seq % SIZE
    q = f.scale(f.pad(q, 2, extra))
    k, v, g, beta = (f.pad(part, 2, extra) for part in (k, v, g, beta))
    v_beta, k_beta = f.mul(v, f.unsqueeze(beta, -1)), f.mul(k, f.unsqueeze(beta, -1))
    q, k, g, k_beta, v_beta = (by_chunk(part, SIZE) for part in (q, k, g, k_beta, v_beta))
    out = delta_rule(t, q, k, v_beta, k_beta, f.cumsum(g))
    out = f.reshape(out, out.shape[0], out.shape[1], -1, out.shape[-1])
    out = f.narrow(out, 2, seq) if extra else out
    return f.to(f.contiguous(f.transpose(out, 1, 2)), dtype)


def delta_rule(t: Tape, q: Value, k: Value, v_beta: Value, k_beta: Value, g: Value) -> Value:
    """Within all chunks at once, then from chunk to chunk; `g` is the decay summed up within each chunk."""
    mask, strict = t.new((SIZE, SIZE), "bool"), t.new((SIZE, SIZE), "bool")
    pairs = f.exp(f.masked_fill(f.subtract(f.unsqueeze(g, -2), f.unsqueeze(g, -3)), f.unsqueeze(strict, -1)))
    within = f.total(f.mul(f.mul(f.unsqueeze(k_beta, -2), f.unsqueeze(k, -3)), pairs), -1)
    within = f.shift(substituted(f.neg(f.masked_fill(within, mask))))
    v, cumulated = f.matmul(within, v_beta), f.matmul(within, f.mul(k_beta, f.exp(g)))
    first = [(t.new((*q.shape[:2], q.shape[-1], v.shape[-1]), v.dtype), t.new(v.shape, v.dtype))]

    def step(carried: tuple[Value, Value]) -> tuple[Value, Value]:
        state, out = carried
        q_i, k_i, v_i, g_i = (f.select(part, 2) for part in (q, k, v, g))
        inter = f.matmul(f.mul(q_i, f.exp(g_i)), state)
        scores = f.mul(f.mul(f.unsqueeze(q_i, -2), f.unsqueeze(k_i, -3)), f.select(pairs, 2))
        scores = f.masked_fill(f.total(scores, -1), strict)
        new = f.subtract(v_i, f.matmul(f.select(cumulated, 2), state))
        out = f.assign(out, f.add(inter, f.matmul(scores, new)))
        rest = f.exp(f.subtract(f.narrow(g_i, 2, 1), g_i))
        kept = f.mul(state, f.unsqueeze(f.exp(f.select(g_i, 2)), -1))
        return f.add(kept, f.matmul(f.swap(f.mul(k_i, rest)), new)), out

    return loop(t, q.shape[2], step, first.pop())[1]


def substituted(x: Value) -> Value:
    """The loop that inverts a triangular matrix row by row: row i saves copies of itself and of the i rows above it.

    As one operation: its temporaries are small beside what is there for every channel. What it saves is small, each by itself.
    """
    each, t = x.elements // SIZE**2 * 4, x.tape
    node = record(t, _substituted_backward, (x,))
    out = t.new(x.shape, x.dtype)
    for i in range(1, SIZE):
        for copied in (i, i * i):
            save(t, node, t.new((each // 4 * copied,), "fp32"))
    out.node = node
    return out


def _substituted_backward(node: Node, g: Value) -> Gradients:
    _kept = node.load()
    return (g.tape.new(g.shape, g.dtype),)


def gated_norm(t: Tape, block: Norm, x: Value, gate: Value) -> Value:
    """KimiLinearRMSNormGated.forward: fp32 throughout, times sigmoid(gate)."""
    dtype = x.dtype
    with inside(t, block):
        x = f.to(x, "fp32")
        x = f.mul(x, f.rsqrt(f.shift(f.mean(f.square(x), -1))))
        x = f.mul(f.to(t.weight("weight", (block.width,)), "fp32"), x)
        return f.to(f.mul(x, f.sigmoid(f.to(gate, "fp32"))), dtype)
