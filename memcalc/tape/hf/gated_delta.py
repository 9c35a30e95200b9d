"""Gated delta nets as transformers runs them without kernels: in chunks, one after the other (modeling_qwen3_next.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcalc.blocks.attention import Attention
from memcalc.blocks.ssm import GatedDelta
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attend, heads, normed
from memcalc.tape.hf.dual import causal_conv
from memcalc.tape.hf.rotary import rotate
from memcalc.tape.loops import loop
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.basic import Norm
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


class Mixed(NamedTuple):
    """What the projections yield: queries, keys and values in one, the output's gate, write strengths and decays.

    `parts` are queries, keys and values as they went into one, `wide` what else names of the forward pass hold.
    """

    qkv: Value
    z: Value
    b: Value
    a: Value
    parts: tuple[Value, ...] = ()
    wide: tuple[Value, ...] = ()


@rule(GatedDelta)
def gated_delta(t: Tape, block: GatedDelta, x: Value, around: Around) -> Value:
    """Qwen3NextGatedDeltaNet.forward, Qwen3_5GatedDeltaNet's, and OlmoHybridGatedDeltaNet's."""
    if len(block.projections) == EACH:
        return each(t, block, x, around)
    qkv, z, write, a, parts, _wide = MIXING[len(block.projections)](t, block, x, around)
    qkv = causal_conv(t, block.conv, f.transpose(qkv, 1, 2), block.activation)  # type: ignore[arg-type]
    q, k, v = by_head(block, qkv)
    del parts  # their names stand for these now
    beta = f.sigmoid(write)
    g = decay(t, block, a)
    handed = [chunks(t, block, q, k, v, g, beta)]
    out = normed_out(t, block, handed, z)
    return run(t, block.out_proj, out, around)


def each(t: Tape, block: GatedDelta, x: Value, around: Around) -> Value:
    """OlmoHybridGatedDeltaNet.forward: queries, keys and values too have projections of their own, the gate comes last."""
    *mixing, decays, writing, gate = block.projections
    qkv = f.cat([run(t, part, x, around) for part in mixing])
    qkv = causal_conv(t, block.conv, f.transpose(qkv, 1, 2), block.activation)  # type: ignore[arg-type]
    q, k, v = by_head(block, qkv)
    beta = f.sigmoid(run(t, writing, x, around))
    g = decay(t, block, run(t, decays, x, around))
    handed = [chunks(t, block, q, k, v, g, beta)]
    out = normed_out(t, block, handed, run(t, gate, x, around))
    return run(t, block.out_proj, out, around)


def by_head(block: GatedDelta, qkv: Value) -> tuple[Value, Value, Value]:
    """Queries, keys and values [batch, seq, heads, width] of what the convolution yields."""
    (b, _, s), keys, values = qkv.shape, block.key_heads * block.key_dim, block.value_heads * block.value_dim
    q, k, v = f.split(f.transpose(qkv, 1, 2), (keys, keys, values))
    q, k = (f.reshape(part, b, s, -1, block.key_dim) for part in (q, k))
    return q, k, f.reshape(v, b, s, -1, block.value_dim)


def normed_out(t: Tape, block: GatedDelta, handed: list[Value], z: Value) -> Value:
    """The gated norm of every head; what is `handed` over has the name of what comes of it."""
    out = handed.pop()
    b, s = out.shape[:2]
    out = gated_norm(t, block.norm, f.reshape(out, -1, block.value_dim), f.reshape(z, -1, block.value_dim))  # type: ignore[arg-type]
    return f.reshape(out, b, s, -1)


def decay(t: Tape, block: GatedDelta, a: Value) -> Value:
    """-exp(A_log) * softplus(a + dt_bias), in fp32."""
    rate = f.neg(f.exp(f.to(t.weight("A_log", (block.value_heads,)), "fp32")))
    return f.mul(rate, f.softplus(f.add(f.to(a, "fp32"), t.weight("dt_bias", (block.value_heads,)))))


def fused(t: Tape, block: GatedDelta, x: Value, around: Around) -> Mixed:
    """fix_query_key_value_ordering: what belongs to one key head lies together."""
    b, s = x.shape[:2]
    groups, times = block.key_heads, block.value_heads // block.key_heads
    qkvz, ba = (f.view(run(t, part, x, around), b, s, groups, -1) for part in block.projections)
    q, k, v, z = f.split(qkvz, (block.key_dim, block.key_dim, times * block.value_dim, times * block.value_dim), 3)
    beta, a = (f.reshape(part, b, s, block.value_heads) for part in f.split(ba, (times, times), 3))
    v, z = (f.reshape(part, b, s, -1, block.value_dim) for part in (v, z))
    q, k, v = (f.reshape(part, b, s, -1) for part in (q, k, v))
    return Mixed(f.cat((q, k, v)), z, beta, a, (q, k, v), (qkvz, ba))


def apart(t: Tape, block: GatedDelta, x: Value, around: Around) -> Mixed:
    """A projection for each."""
    qkv, z, b, a = (run(t, part, x, around) for part in block.projections)
    return Mixed(qkv, f.reshape(z, *x.shape[:2], -1, block.value_dim), b, a)


EACH = 6  # projections where each has one
MIXING = {2: fused, 4: apart}  # by the number of projections


def chunks(t: Tape, block: GatedDelta, q: Value, k: Value, v: Value, g: Value, beta: Value) -> Value:
    """torch_chunk_gated_delta_rule: everything in fp32, by heads, padded to whole chunks."""
    dtype, seq, times = q.dtype, q.shape[1], block.value_heads // block.key_heads
    if times > 1:
        q, k = f.repeat_interleave(q, times, 2), f.repeat_interleave(k, times, 2)
    q, k, v, beta, g = (f.to_contiguous(f.transpose(part, 1, 2), "fp32") for part in (q, k, v, beta, g))
    q = l2_norm(q)
    k = l2_norm(k)
    q = f.scale(q)
    extra = -seq % block.chunk
    q, k, v, beta, g = (f.pad(part, 2, extra) for part in (q, k, v, beta, g))
    v_beta, k_beta = f.mul(v, f.unsqueeze(beta, -1)), f.mul(k, f.unsqueeze(beta, -1))
    q, k, k_beta, v_beta = (by_chunk(part, block.chunk) for part in (q, k, k_beta, v_beta))
    sums = f.cumsum(f.reshape(g, *g.shape[:2], -1, block.chunk))
    _triangle, _pairs, _system, within, _decayed, values, cumulated = solved(t, q, k, v_beta, k_beta, sums)
    out = t.new(values.shape, values.dtype, values.strides)
    q = f.mul(q, f.unsqueeze(f.exp(sums), -1))
    k = f.mul(k, f.unsqueeze(f.exp(f.subtract(f.narrow(sums, -1, 1), sums)), -1))
    out = scan(t, (q, k, values, cumulated, within), sums, out)
    out = f.reshape(out, out.shape[0], out.shape[1], -1, out.shape[-1])
    out = f.narrow(out, 2, seq) if extra else out
    return f.to_contiguous(f.transpose(out, 1, 2), dtype)


def by_chunk(x: Value, size: int) -> Value:
    """[batch, heads, seq, dim] as [batch, heads, chunks, size, dim]."""
    return f.reshape(x, *x.shape[:2], -1, size, x.shape[-1])


def l2_norm(x: Value) -> Value:
    """x / |x|."""
    return f.mul(x, f.rsqrt(f.shift(f.total(f.mul(x, x), -1, keep=True))))


def solved(t: Tape, q: Value, k: Value, v_beta: Value, k_beta: Value, sums: Value) -> tuple[Value, ...]:
    """The first phase of torch_chunk_gated_delta_rule, within all chunks at once: what has names, in the order of these."""
    size = q.shape[3]
    triangle = t.new((size, size), "bool")
    pairs = f.subtract(f.unsqueeze(sums, 4), f.unsqueeze(sums, 3))
    pairs = f.masked_fill(pairs, triangle)
    pairs = f.exp(pairs)
    system = f.mul(f.matmul(k_beta, f.swap(k)), pairs)
    within = f.mul(f.matmul(q, f.swap(k)), pairs)
    decayed = f.mul(k_beta, f.unsqueeze(f.exp(sums), -1))
    values, cumulated = f.solve_triangular(system, v_beta), f.solve_triangular(system, decayed)
    return triangle, pairs, system, within, decayed, values, cumulated


def scan(t: Tape, mixed: tuple[Value, ...], sums: Value, out: Value) -> Value:
    """The second phase, from chunk to chunk."""
    q, k, values, cumulated, within = mixed
    first = [(t.new((*q.shape[:2], q.shape[-1], values.shape[-1]), values.dtype), out)]  # its name is the next state's
    del out
    decays = f.unsqueeze(f.unsqueeze(f.exp(f.select(sums, -1)), -1), -1)

    def step(carried: tuple[Value, Value]) -> tuple[Value, Value]:
        state, out = carried
        new = f.subtract(f.select(values, 2), f.matmul(f.select(cumulated, 2), state))
        inter = f.matmul(f.select(q, 2), state)
        out = f.assign(out, f.add(inter, f.matmul(f.select(within, 2), new)))
        state = f.add(f.mul(state, f.select(decays, 2)), f.matmul(f.swap(f.select(k, 2)), new))
        return state, out

    return loop(t, q.shape[2], step, first.pop())[1]


def gated_norm(t: Tape, block: Norm, x: Value, gate: Value) -> Value:
    """Qwen3NextRMSNormGated.forward: the norm, then times silu(gate) in fp32."""
    dtype = x.dtype
    with inside(t, block):
        x = f.to(x, "fp32")
        x = f.mul(x, f.rsqrt(f.shift(f.mean(f.square(x), -1))))
        x = f.mul(t.weight("weight", (block.width,)), f.to(x, dtype))
        x = f.mul(x, f.silu(f.to(gate, "fp32")))
        return f.to(x, dtype)


@rule(Attention, "qwen3_next")
def gated_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Qwen3NextAttention.forward: the second half of each query head is a gate for its output."""
    b, s = x.shape[:2]
    q, gate = f.chunk(f.view(run(t, block.q, x, around), b, s, -1, 2 * block.head_dim), 2)
    gate = f.reshape(gate, b, s, -1)
    q = f.transpose(run(t, block.q_norm, q, around), 1, 2)
    k = heads(normed(t, block.k_norm, run(t, block.k, x, around), around), block.kv_heads)
    v = heads(run(t, block.v, x, around), block.kv_heads)
    tables = around.tables(block.rotary_kind)
    if tables:
        q, k = rotate(block, q, k, tables)
    out = f.reshape(attend(t, block, q, k, v, around), b, s, -1)
    handed = [f.mul(out, f.sigmoid(gate))]
    del out  # its name stands for what comes of it
    return run(t, block.out, handed.pop(), around)
