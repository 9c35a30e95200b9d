"""Longformer's attention to a window, as a band of scores that overlapping chunks make (modeling_longformer.py).

Tokens are global where a `global_attention_mask` says so, or the head does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.sparse import CutBack, LocalGlobalAttention, PadToWindow
from memcalc.tape import functions as f
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(LocalGlobalAttention, "longformer")
def attention(t: Tape, block: LocalGlobalAttention, x: Value, around: Around) -> Value:
    """LongformerAttention.forward: the attention's names have gone when the projection behind it runs."""
    attended = self_attention(t, block, x, around)
    return run(t, block.out, attended, around)


def self_attention(t: Tape, block: LocalGlobalAttention, x: Value, around: Around) -> Value:
    """LongformerSelfAttention.forward."""
    (b, s, width), half = x.shape, block.window // 2
    turned = f.transpose(x, 0, 1)
    q, k, v = (run(t, part, turned, around) for part in (block.q, block.k, block.v))
    q, k, v = (by_heads(part, block) for part in (f.scale_(q), k, v))
    scores = masked(t, band(q, k, half), half)
    if block.tokens:
        scores = f.cat((to_global(t, block, q, k), scores))
    weights = f.masked_fill(f.softmax(scores, "fp32"), t.new((b, s, 1, 1), "bool"))
    weights = f.dropout(f.to(weights, scores.dtype), block.dropout)
    del scores
    out = with_global(t, block, weights, v) if block.tokens else weighed(weights, v, half)
    out = f.contiguous(f.reshape(f.transpose(out, 0, 1), s, b, width))
    if block.tokens:
        out = f.assign(out, from_global(t, block, turned, around))
    return f.transpose(out, 0, 1)


def picked(t: Tape, x: Value, shape: tuple[int, ...]) -> Value:
    """Zeros, and the rows of the global tokens put in."""
    rows = f.index(x, t.new((shape[0] * shape[1],), "int64"), (shape[0] * shape[1], *x.shape[2:]))
    return f.assign(t.new(shape, x.dtype), rows)


def to_global(t: Tape, block: LocalGlobalAttention, q: Value, k: Value) -> Value:
    """_concat_with_global_key_attn_probs: every query's scores for the global tokens, [batch, seq, heads, tokens]."""
    b, _, h, d = k.shape
    return f.einsum("blhd,bshd->blhs", q, picked(t, k, (b, block.tokens, h, d)))


def with_global(t: Tape, block: LocalGlobalAttention, weights: Value, v: Value) -> Value:
    """_compute_attn_output_with_global_indices: what the global tokens give, and what the window does."""
    b, _, h, d = v.shape
    n = block.tokens
    values = f.clone(f.transpose(picked(t, v, (b, n, h, d)), 1, 2))
    given = f.transpose(f.matmul(f.clone(f.transpose(f.narrow(weights, -1, n), 1, 2)), values), 1, 2)
    rest = f.contiguous(f.narrow(weights, -1, weights.shape[-1] - n))
    return f.add(given, weighed(rest, v, block.window // 2))


def from_global(t: Tape, block: LocalGlobalAttention, x: Value, around: Around) -> Value:
    """_compute_global_attn_output_from_hidden: the global tokens look at all, through projections of their own."""
    s, b, width = x.shape
    rows, n = b * block.heads, block.tokens
    q = f.scale_(run(t, block.q_global, picked(t, x, (n, b, width)), around))
    k, v = run(t, block.k_global, x, around), run(t, block.v_global, x, around)
    q, k, v = (f.transpose(f.view(f.contiguous(part), -1, rows, block.head_dim), 0, 1) for part in (q, k, v))
    scores = f.view(f.bmm(q, f.swap(k)), b, block.heads, n, s)
    scores = f.view(f.masked_fill(scores, t.new((b, 1, 1, s), "bool")), rows, n, s)
    weights = f.dropout(f.to(f.softmax(scores, "fp32"), scores.dtype), block.dropout)
    return f.index(f.bmm(weights, v), t.new((b * n,), "int64"), (b * n, width))


def by_heads(x: Value, block: LocalGlobalAttention) -> Value:
    """[seq, batch, width] seen as [batch, seq, heads, head_dim]."""
    return f.transpose(f.view(x, *x.shape[:2], block.heads, block.head_dim), 0, 1)


def band(q: Value, k: Value, half: int) -> Value:
    """_sliding_chunks_query_key_matmul: scores of [batch, seq, heads, dim] for each neighbour, [batch, seq, heads, window + 1]."""
    b, s, h, _ = q.shape
    chunks = s // half - 1
    q, k = (overlapping(f.reshape(f.transpose(part, 1, 2), b * h, s, -1), half) for part in (q, k))
    scores = f.einsum("bcxd,bcyd->bcxy", q, k)
    del q, k
    scores = f.view(f.pad(scores, -2, 1), b * h, chunks, 2 * half, 2 * half + 1)
    out = q_like(scores, (b * h, chunks + 1, half, 2 * half + 1))
    upper = f.narrow(f.narrow(scores, -2, half), -1, half + 1)
    out = f.assign(out, upper)
    last = f.narrow(f.narrow(f.select(scores, 1), -2, half), -1, half + 1)
    out = f.assign(out, last)
    out = f.assign(out, f.narrow(f.narrow(scores, -2, half), -1, half))
    out = f.assign(out, f.narrow(f.narrow(f.select(scores, 1), -2, half - 1), -1, half - 1))
    del scores, upper, last
    return beyond(f.transpose(f.view(out, b, h, s, 2 * half + 1), 2, 1), half)


def q_like(x: Value, shape: tuple[int, ...]) -> Value:
    """x.new_zeros(shape)."""
    return x.tape.new(shape, x.dtype)


def overlapping(x: Value, half: int) -> Value:
    """_chunk: windows that overlap by half, [rows, chunks, window, dim]."""
    rows, s, dim = x.shape
    x = f.view(x, rows, s // (2 * half), 2 * half, dim)
    return f.as_strided(x, (rows, s // half - 1, 2 * half, dim), (s * dim, half * dim, dim, 1))


def beyond(x: Value, half: int) -> Value:
    """_mask_invalid_locations: -inf, in place, where the band leaves the sequence at either end."""
    b, _, h, _ = x.shape
    for _end in range(2):
        mask = x.tape.new((b, half, h, half + 1), "bool")
        part = f.narrow(f.narrow(x, 1, half), -1, half + 1)
        x = f.assign(x, f.where(mask, q_like(x, part.shape), part))
    return x


def masked(t: Tape, scores: Value, half: int) -> Value:
    """attn_scores += the band of the mask, which has one head."""
    b, s = scores.shape[:2]
    with t.no_grad():
        ones, mask = t.new((b, s, 1, 1), scores.dtype), t.new((b, s, 1, 1), scores.dtype)
        own = band(ones, mask, half)
    return f.assign(scores, own) if scores.node is None else f.add_(scores, own)


def weighed(weights: Value, v: Value, half: int) -> Value:
    """_sliding_chunks_matmul_attn_probs_value: [batch, seq, heads, dim]."""
    b, s, h, dim = v.shape
    rows, chunks = b * h, s // half
    weights = f.reshape(f.transpose(weights, 1, 2), rows, chunks, half, 2 * half + 1)
    v = f.pad(f.reshape(f.transpose(v, 1, 2), rows, s, dim), 1, 2 * half)
    v = f.as_strided(v, (rows, chunks, 3 * half, dim), ((s + 2 * half) * dim, half * dim, dim, 1))
    weights = f.view(f.pad(weights, -1, half + 1), rows, chunks, -1)
    weights = f.view(f.narrow(weights, -1, weights.shape[-1] - half), rows, chunks, half, 3 * half + 1)
    out = f.einsum("bcwd,bcdh->bcwh", f.narrow(weights, -1, 3 * half), v)
    return f.transpose(f.view(out, b, h, s, dim), 1, 2)


@rule(PadToWindow)
def padded(t: Tape, block: PadToWindow, x: Value, around: Around) -> Value:
    """LongformerModel._pad_to_window_size: the tokens, and as many more as the window asks for."""
    around.tokens = around.tokens or x
    b, s = x.shape
    return x if s % block.window == 0 or s <= block.over else t.new((b, -(-s // block.window) * block.window), x.dtype)


@rule(CutBack)
def cut(_: Tape, block: CutBack, x: Value, around: Around) -> Value:
    """LongformerEncoder.forward, at its end."""
    given = around.tokens.shape[1] if around.tokens else x.shape[1]
    return x if given == x.shape[1] else f.narrow(x, 1, given)
