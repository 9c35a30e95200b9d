"""Attention as Megatron-LM runs it: one projection, fused rotary positions, Transformer Engine's fused attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.megatron import MegatronAttention, MegatronMla
from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record, save
from memcalc.tape.checkpoint import checkpointed
from memcalc.tape.megatron.discarding import Discarded
from memcalc.tape.megatron.modules import recomputes, ways_of
from memcalc.tape.rules import Around, rule, run
from memcalc.tape.values import Value

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Shape


@rule(MegatronAttention)
def attention(t: Tape, block: MegatronAttention, x: Value, around: Around) -> Value:
    """SelfAttention.forward (megatron/core/transformer/attention.py)."""
    mixed = run(t, block.qkv, x, around)
    b, s = mixed.shape[:2]
    width = block.value_dim or block.head_dim
    widths = [block.heads * block.head_dim, block.kv_heads * block.head_dim, block.kv_heads * width]
    q, k, v = split(t, mixed, widths, (block.heads, block.kv_heads, block.kv_heads))
    gate = t.new((b, s, block.heads * block.head_dim), x.dtype) if block.gated else None
    del mixed
    apart = block.rotary_dim > 0 or block.heads != block.kv_heads
    if block.heads != block.kv_heads and block.kv_heads > 1:
        q = f.contiguous(q)  # the heads of a group lie between its keys and values: no view holds them all
    q = run(t, block.q_norm, q, around) if block.q_norm else q
    k = run(t, block.k_norm, k, around) if block.k_norm else k
    if block.rotary_dim:
        angles = t.given(
            (t.setting.seq, block.rotary_dim), "fp32", ".rotary_pos_emb"
        )  # RotaryEmbedding.forward caches them
        q, k = rotated(t, q, angles), rotated(t, k, angles)
    if apart:  # get_qkv_layout: strides of keys and values must agree
        q, k, v = (f.contiguous(part) for part in (q, k, v))
    out = core(t, block, q, k, v)
    del q, k, v
    if gate is not None:
        out = f.mul(out, f.sigmoid(gate))
    return run(t, block.out, out, around)


@rule(MegatronMla)
def latent(t: Tape, block: MegatronMla, x: Value, around: Around) -> Value:
    """MLASelfAttention.forward and get_query_key_value_tensors (multi_latent_attention.py)."""
    low = run(t, block.q_a, x, around) if block.q_b else x
    combined = run(t, block.kv_a, x, around)
    compressed, k_rope = split(t, combined, [block.kv_rank, block.rope], (1, 1))
    del combined
    if ways_of(t).spread > 1:
        k_rope = gathered(t, k_rope, ways_of(t).spread)
    t.given((t.setting.seq, 3 * block.rope), "fp32", ".rotary_pos_emb")  # angles, and their cosines and sines

    def up(low: Value, compressed: Value, k_rope: Value) -> tuple[Value, ...]:
        wide = run(t, block.q_b or block.q, low, around)
        kv = run(t, block.kv_b, f.view(compressed, *compressed.shape[:2], -1), around)
        q = f.view(wide, *wide.shape[:2], block.heads, block.head_dim)
        k, v = expanded(t, block, kv, k_rope)
        return in_place(t, q), k, v

    made = Discarded(t, up, low, compressed, k_rope) if recomputes(t, "mla_up_proj") and t.grad_enabled else None
    q, k, v = made.take() if made else up(low, compressed, k_rope)
    del low, compressed, k_rope
    out = core(t, block, q, k, v)
    del q, k, v
    if made:
        made.done()
    return run(t, block.out, out, around)


def split(t: Tape, x: Value, widths: list[int], heads: tuple[int, ...]) -> tuple[Value, ...]:
    """SplitAlongDim: views; going back their gradients are put side by side."""
    node = record(t, _split_backward, (x,), (), x.shape)
    if node:
        node.width = len(widths)
    b, s, parts = x.shape[0], x.shape[1], []
    for slot, (width, count) in enumerate(zip(widths, heads, strict=True)):
        strides = (s * x.shape[-1], x.shape[-1], max(1, width // count), 1)
        parts.append(Value(t, x.storage, (b, s, count, width // count), x.dtype, strides, node, slot))
    return tuple(parts)


def _split_backward(node: Node, *grads: Value | None) -> Gradients:
    given = next(g for g in grads if g is not None)
    return (given.tape.new(node.meta, given.dtype),)


def rotated(t: Tape, x: Value, angles: Value) -> Value:
    """FusedRoPEFunc: a new tensor each way; only the angles are saved (transformer_engine, attention/rope.py)."""
    out = t.new(x.shape, x.dtype)
    out.node = record(t, _rotated_backward, (x,), (angles,))
    return out


def _rotated_backward(node: Node, g: Value) -> Gradients:
    _angles = node.load()
    return (g.tape.new(g.shape, g.dtype),)


def in_place(t: Tape, x: Value) -> Value:
    """fused_apply_mla_rope_for_q: the queries' positions are rotated where they are, each way."""
    node = record(t, _in_place_backward, (x,))
    return Value(t, x.storage, x.shape, x.dtype, x.strides, node)


def _in_place_backward(_: Node, g: Value) -> Gradients:
    return (g,)


def gathered(t: Tape, x: Value, times: int) -> Value:
    """gather_from_sequence_parallel_region."""
    b, s, *rest = x.shape
    out = t.new((b, s * times, *rest), x.dtype)
    out.node = record(t, _gathered_backward, (x,), (), x.shape)
    return out


def _gathered_backward(node: Node, g: Value) -> Gradients:
    return (g.tape.new(node.meta, g.dtype),)


def expanded(t: Tape, block: MegatronMla, kv: Value, k_rope: Value) -> tuple[Value, Value]:
    """fused_apply_mla_rope_for_kv: keys of every head with the rotated part they share, and values."""
    b, s = kv.shape[:2]
    node = record(t, _expanded_backward, (kv, k_rope), (), (kv.shape, k_rope.shape))
    if node:
        node.width = 2
    k = t.new((b, s, block.heads, block.head_dim), kv.dtype)
    v = t.new((b, s, block.heads, block.value), kv.dtype)
    k.node = v.node = node
    v.slot = 1
    return k, v


def _expanded_backward(node: Node, dk: Value, dv: Value) -> Gradients:
    first, second = node.meta
    return dk.tape.new(first, dk.dtype), dk.tape.new(second, dv.dtype)


def core(t: Tape, block: MegatronAttention | MegatronMla, q: Value, k: Value, v: Value) -> Value:
    """The core attention, recomputed by itself where `core_attn` is among the recomputed modules."""
    width = v.shape[-1]
    ways = ways_of(t)
    if t.setting.attention == "eager":
        return unfused(t, block, q, k, v)
    if ways.context > 1 and ways.attention_over_context != "a2a":
        return ring(t, q, k, v, width, ways.context)
    over = ways.context
    if "core_attn" in ways.modules and ways.recompute == "selective":
        return checkpointed(t, lambda x: fused(t, x, k, v, width, over), q, reentrant=False)
    return fused(t, q, k, v, width, over)


def unfused(t: Tape, block: MegatronAttention | MegatronMla, q: Value, k: Value, v: Value) -> Value:
    """DotProductAttention.forward: scores, FusedScaleMaskSoftmax, dropout, and their product with the values.

    Key/value heads are repeated for the queries of their group (dot_product_attention.py).
    """
    b, s, heads, _ = q.shape
    q, k, v = (f.transpose(x, 1, 2) for x in (q, k, v))
    if k.shape[1] < heads:
        k, v = (f.repeat_interleave(x, heads // x.shape[1], 1) for x in (k, v))
    scores = f.matmul(q, f.swap(k))
    weights = f.dropout(f.softmax(scores), block.dropout)
    del scores
    out = f.contiguous(f.transpose(f.matmul(weights, v), 1, 2))
    return f.view(out, b, s, -1)


def fused(t: Tape, q: Value, k: Value, v: Value, width: int, over: int = 1) -> Value:
    """FusedAttnFunc: saves queries, keys, values, the output, and a log-sum-exp in fp32 for each row of each head.

    Over context-parallel ranks by all-to-all (AttnFuncWithCPAndQKVOA2A) each of them attends with its share of the
    heads over the whole sequence; what is saved is laid out that way, and the output a second time as this rank has it.
    """
    b, s, heads, _ = q.shape
    if over > 1:
        q, k, v = (exchanged(t, x, over) for x in (q, k, v))
    flops = 2 * s * s * over * heads * b * (q.shape[-1] + width)
    node = record(t, _fused_backward, (q, k, v), (q, k, v), flops)
    t.multiplied(flops, kernel=True)
    seen = t.new((*q.shape[:3], width), q.dtype)
    rows = t.new((b, q.shape[2], q.shape[1], 1), "fp32")
    save(t, node, seen)
    save(t, node, rows)
    seen.node = node
    if over > 1:
        seen = returned(t, seen, over)
    return f.view(seen, b, s, heads * width)


def _fused_backward(node: Node, g: Value) -> Gradients:
    q, k, v, _out, rows = node.load()
    t = g.tape
    t.multiplied(5 * node.meta // 2, kernel=True)
    sums = t.new(rows.shape, "fp32")
    wide = t.new(q.shape, "fp32")
    dq, dk, dv = (t.new(x.shape, x.dtype) for x in (q, k, v))
    del sums, wide
    return dq, dk, dv


def ring(t: Tape, q: Value, k: Value, v: Value, width: int, over: int) -> Value:
    """AttnFuncWithCPAndKVP2P: keys and values go round; queries, the last of them, the output and its log-sum-exp are saved.

    All that came by, and the output of every step, are there until the forward pass of the layer ends. The rank that
    sees most of the sequence has them all in full.
    """
    b, s, heads, _ = q.shape
    shape, pair = (*q.shape[:3], width), (k.elements + v.elements,)
    flops = 2 * s * s * over * heads * b * (q.shape[-1] + width)
    node = record(t, _ring_backward, (q, k, v), (q,), (k.shape, v.shape, flops))
    passing = [t.new(pair, q.dtype) for _ in range(over)]
    steps = [t.new(shape, q.dtype) for _ in range(over)]
    t.multiplied(flops, kernel=True)
    out = t.new(shape, q.dtype)
    rows = t.new((b, heads, s, 1), "fp32")
    for kept in (passing[-1], out, rows):
        save(t, node, kept)
    out.node = node
    del passing, steps
    return f.view(out, b, s, heads * width)


def _ring_backward(node: Node, g: Value) -> Gradients:
    q, pair, _out, rows = node.load()
    t, (keys, values, flops) = g.tape, node.meta
    t.multiplied(5 * flops // 2, kernel=True)
    dq = t.new(q.shape, q.dtype)
    buffers = [t.new((2, *pair.shape), pair.dtype) for _ in range(2)]
    sums, wide = t.new(rows.shape, "fp32"), t.new(q.shape, "fp32")
    step = [t.new(q.shape, q.dtype), t.new(pair.shape, pair.dtype)]
    del sums, wide, step
    dk, dv = t.new(keys, q.dtype), t.new(values, q.dtype)
    del buffers
    return dq, dk, dv


def exchanged(t: Tape, x: Value, over: int) -> Value:
    """flash_attn_a2a_communicate before attention: all of the sequence, a share of the heads."""
    b, s, heads, dim = x.shape
    shape = (b, s * over, max(1, heads // over), dim)
    node = record(t, _exchanged_backward, (x,), (), x.shape)
    parts = t.new(x.shape, x.dtype)
    received = t.new(shape, x.dtype)
    del parts
    out = t.new(shape, x.dtype)
    out.node = node
    del received
    return out


def _exchanged_backward(node: Node, g: Value) -> Gradients:
    received = g.tape.new(node.meta, g.dtype)
    dx = g.tape.new(node.meta, g.dtype)
    del received
    return (dx,)


def returned(t: Tape, x: Value, over: int) -> Value:
    """flash_attn_a2a_communicate behind attention: a part of the sequence, all of the heads."""
    b, s, heads, dim = x.shape
    shape: Shape = (b, s // over, heads * over, dim)
    node = record(t, _exchanged_backward, (x,), (), x.shape)
    received = t.new(shape, x.dtype)
    out = t.new(shape, x.dtype)
    out.node = node
    del received
    return out
