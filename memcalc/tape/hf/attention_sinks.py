"""Attention whose sinks join scores that are made in fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import eager, flash, project, repeat_kv, separate
from memcalc.tape.hf.rotary import rotate
from memcalc.tape.rules import Around, rule

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Attention, "flint")
def flint(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """FlintAttention.forward, which no sdpa kernel runs (modeling_flint.py)."""
    q, k, v = separate(t, block, x, around)
    tables = around.tables(block.rotary_kind)
    if block.window and tables:  # layers that see all have no positions
        q, k = rotate(block, q, k, tables)
    if t.setting.attention == "flash":
        return project(t, block, flash(t, q, k, v), around)
    return project(t, block, sunk(t, block, q, k, v, around), around)


def sunk(t: Tape, block: Attention, q: Value, k: Value, v: Value, around: Around) -> Value:
    """Flint's eager_attention_forward: scores and their softmax in fp32, autocast or not, with a sink for every head."""
    groups = block.heads // block.kv_heads
    keys, values = repeat_kv(k, groups), repeat_kv(v, groups)
    before, t.autocast = t.autocast, ""
    weights = f.scale(f.matmul(f.to(q, "fp32"), f.swap(f.to(keys, "fp32"))))
    t.autocast = before
    mask = around.mask(block.window)
    if mask is not None:
        weights = f.add(weights, mask)
    b, h, s, columns = weights.shape
    sinks = f.expand(f.reshape(t.weight("sinks", (h,)), 1, h, 1, 1), b, h, s, 1)
    scores = f.softmax(f.cat((weights, sinks)), "fp32")
    weights = f.to(f.narrow(scores, -1, columns), values.dtype)
    del scores
    weights = around.weights = f.dropout(weights, block.dropout)
    return f.contiguous(f.transpose(f.matmul(weights, values), 1, 2))


@rule(Attention, "privacy")
def privacy(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """OpenAIPrivacyFilterAttention.forward: rotated by pairs, queries and keys scaled apart (modeling_openai_privacy_filter.py)."""
    q, k, v = separate(t, block, x, around)
    tables = around.tables(block.rotary_kind)
    q, k = (f.scale(_paired(part, tables) if tables else part) for part in (q, k))
    if t.setting.attention == "flash":
        return project(t, block, flash(t, q, k, v), around)
    return project(t, block, eager(t, block, q, k, v, around.mask(block.window), around), around)


def _paired(x: Value, tables: tuple[Value, Value]) -> Value:
    """_apply_rotary_emb: even channels with odd ones, put side by side again by a copy."""
    half = x.shape[-1] // 2
    cos, sin = (f.narrow(f.unsqueeze(table, 1), -1, half) for table in tables)
    first, second = f.narrow(x, -1, half), f.narrow(x, -1, half)
    one = f.subtract(f.mul(first, cos), f.mul(second, sin))
    other = f.add(f.mul(second, cos), f.mul(first, sin))
    return f.reshape(f.stack((one, other), -1), *x.shape)
