"""Attention as transformers runs it: projections, rotary embedding, and the interface eager / sdpa / flash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.tape import functions as f
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Attention)
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """LlamaAttention.forward (modeling_llama.py)."""
    batch, seq = x.shape[:2]
    q = heads(run(t, block.q, x, around), block.heads)
    k = heads(run(t, block.k, x, around), block.kv_heads)
    v = heads(run(t, block.v, x, around), block.kv_heads)
    if block.rotary_dim and around.rotary:
        q, k = rotated(q, k, around.rotary)
    out = attend(t, block, q, k, v, around.mask(block.window))
    out = f.reshape(out, batch, seq, -1)
    return run(t, block.out, out, around)


def heads(x: Value, count: int) -> Value:
    """[batch, seq, heads * dim] seen as [batch, heads, seq, dim]."""
    return f.transpose(f.view(x, *x.shape[:-1], count, x.shape[-1] // count), 1, 2)


def rotated(q: Value, k: Value, tables: tuple[Value, Value]) -> tuple[Value, Value]:
    """apply_rotary_pos_emb."""
    cos, sin = (f.unsqueeze(table, 1) for table in tables)
    q_embed = f.add(f.mul(q, cos), f.mul(rotate_half(q), sin))
    k_embed = f.add(f.mul(k, cos), f.mul(rotate_half(k), sin))
    return q_embed, k_embed


def rotate_half(x: Value) -> Value:
    """cat((-x2, x1))."""
    half = x.shape[-1] // 2
    x1 = f.narrow(x, -1, half)
    x2 = f.narrow(x, -1, x.shape[-1] - half)
    return f.cat((f.neg(x2), x1))


def attend(t: Tape, block: Attention, q: Value, k: Value, v: Value, mask: Value | None) -> Value:
    """ALL_ATTENTION_FUNCTIONS[implementation]."""
    if t.setting.attention == "eager":
        return eager(t, block, q, k, v, mask)
    return sdpa(t, block, q, k, v, mask)


def repeat_kv(x: Value, times: int) -> Value:
    """Key/value heads repeated for the queries of their group: a copy."""
    if times == 1:
        return x
    b, h, s, d = x.shape
    return f.reshape(f.expand(f.unsqueeze(x, 2), b, h, times, s, d), b, h * times, s, d)


def eager(t: Tape, block: Attention, q: Value, k: Value, v: Value, mask: Value | None) -> Value:
    """eager_attention_forward (modeling_llama.py)."""
    groups = block.heads // block.kv_heads
    keys, values = repeat_kv(k, groups), repeat_kv(v, groups)
    weights = f.scale(f.matmul(q, f.swap(keys)))
    if mask is not None:
        weights = f.add(weights, mask)
    weights = f.to(f.softmax(weights, "fp32"), q.dtype)
    weights = f.dropout(weights, block.dropout)
    out = f.matmul(weights, values)
    return f.contiguous(f.transpose(out, 1, 2))


def sdpa(t: Tape, block: Attention, q: Value, k: Value, v: Value, mask: Value | None) -> Value:
    """sdpa_attention_forward (integrations/sdpa_attention.py)."""
    groups = block.heads // block.kv_heads
    if groups > 1 and (mask is not None or not k.shape[-1] == v.shape[-1] <= 256):
        k, v = repeat_kv(k, groups), repeat_kv(v, groups)
    q, k, v = f.lower(q), f.lower(k), f.lower(v)
    out = f.flash(q, k, v, mask)
    return f.contiguous(f.transpose(out, 1, 2))
