"""Attention of the families that don't go through transformers' common form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attend, heads, project, repeat_kv, separate
from memcalc.tape.hf.rotary import rotate_pairs, rotated
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Attention, "gptj")
def gptj(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """GPTJAttention.forward: heads rotated before they are transposed, scores in fp32 (modeling_gptj.py)."""
    b, s = x.shape[:2]
    q, k, v = (run(t, part, x, around) for part in (block.q, block.k, block.v))
    q, k = (f.view(part, b, s, block.heads, block.head_dim) for part in (q, k))
    v = heads(v, block.heads)
    table = f.clone(t.given((t.context, block.rotary_dim), "fp32", "embed_positions"))
    places = t.new((1, s, block.rotary_dim), "int64")
    chosen = f.to(f.gather(table, places, places.shape), k.dtype)
    (k, *_keys), (q, *_queries) = (rotated_first(t, part, chosen) for part in (k, q))
    k, q = f.transpose(k, 1, 2), f.transpose(q, 1, 2)
    return project(t, block, wide_scores(t, block, q, k, v, around), around)


@rule(Attention, "codegen")
def codegen(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """CodeGenAttention.forward: queries, values and keys in four parts, copied together (modeling_codegen.py)."""
    b, s = x.shape[:2]
    h, d, parts = block.heads, block.head_dim, 4  # mp_num
    qkv = f.reshape(run(t, block.qkv, x, around), b, s, parts, -1)
    split = f.split(qkv, (h * d // parts,) * 3)
    q, v, k = (f.reshape(f.reshape(part, b, s, parts, h // parts, d), b, s, h, d) for part in split)
    v = f.transpose(v, 1, 2)
    table = t.given((t.context, block.rotary_dim), "fp32", "embed_positions")
    chosen = f.index(table, t.new((1, s), "int64"), (1, s, block.rotary_dim))
    (k, *_keys), (q, *_queries) = (rotated_first(t, part, chosen) for part in (k, q))
    k, q = f.transpose(k, 1, 2), f.transpose(q, 1, 2)
    return project(t, block, wide_scores(t, block, q, k, v, around), around)


def rotated_first(t: Tape, x: Value, tables: Value) -> tuple[Value, ...]:
    """The first channels of [batch, seq, heads, dim] times tables that are repeated for it, the rest behind them.

    Behind that the two parts, which keep their names to the end of the attention's forward.
    """
    dim = tables.shape[-1]
    rot, rest = f.narrow(x, -1, dim), f.narrow(x, -1, x.shape[-1] - dim)
    sin, cos = (t.new((1, x.shape[1], 1, dim), tables.dtype) for _ in range(2))
    rot = f.add(f.mul(rot, cos), f.mul(rotate_pairs(rot), sin))
    return f.cat((rot, rest)), rot, rest


def wide_scores(t: Tape, block: Attention, q: Value, k: Value, v: Value, around: Around) -> Value:
    """GPTJAttention._attn, GPTNeoSelfAttention._attn: queries and keys in fp32, weights cast to the values' dtype."""
    q = f.to(q, "fp32")
    k = f.to(k, "fp32")
    weights = f.matmul(q, f.swap(k))
    mask = around.mask(block.window)
    if block.formula == "gpt_neo":  # a buffer says which keys a layer sees, whatever its window
        seen = f.narrow(f.narrow(t.given((t.context, t.context), "bool", "bias"), 0, q.shape[2]), 1, q.shape[2])
        weights = f.masked_fill(weights, seen)
        mask = around.mask(0)
    elif block.formula == "gptj":
        weights = f.scale(weights)
    if mask is not None:
        weights = f.add(weights, mask)
    if block.formula == "codegen":
        weights = f.scale(weights)
    weights = f.softmax(weights)
    weights = f.to(weights, v.dtype)
    weights = around.weights = around.returned = f.dropout(weights, block.dropout)
    out = f.matmul(weights, v)
    return f.contiguous(f.transpose(out, 1, 2))


@rule(Attention, "gpt_neo")
def gpt_neo(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """GPTNeoSelfAttention.forward (modeling_gpt_neo.py)."""
    q, k, v = (run(t, part, x, around) for part in (block.q, block.k, block.v))
    q, k, v = heads(q, block.heads), heads(k, block.heads), heads(v, block.heads)
    return project(t, block, wide_scores(t, block, q, k, v, around), around)


@rule(Attention, "bloom")
def bloom(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """BloomAttention.forward: scores by one product that adds the linear biases (modeling_bloom.py)."""
    b, s = x.shape[:2]
    h, d = block.heads, block.head_dim
    qkv = f.view(run(t, block.qkv, x, around), b, s, h, 3, d)
    whole = qkv.detach()
    q, k, v = (f.reshape(f.transpose(f.select(qkv, 3), 1, 2), b * h, s, d) for _ in range(3))
    bias = around.bias or t.new((b * h, 1, s), x.dtype)
    scores = f.view(f.baddbmm(bias, q, f.swap(k), scaled=True), b, h, s, s)
    mask = around.mask(0)
    masked = scores if mask is None else f.add(scores, mask)
    weights = around.weights = around.returned = f.dropout(f.to(f.softmax(masked, "fp32"), q.dtype), block.dropout)
    out = f.bmm(f.lower(f.view(weights, b * h, s, s)), f.lower(v))
    out = f.reshape(f.transpose(f.view(out, b, h, s, d), 1, 2), b, s, h * d)
    around.handed += (whole, q, k, v, bias, scores, masked, out)  # names that last until the module has added its input
    return run(t, block.out, out, around)


@rule(Attention, "mpt")
def mpt(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """MptAttention.forward: biases in fp32 are added to the scores (modeling_mpt.py)."""
    b, s = x.shape[:2]
    qkv = run(t, block.qkv, x, around)
    if block.clip:
        qkv = f.clamp(qkv)
    q, k, v = (f.transpose(f.reshape(p, b, s, block.heads, block.head_dim), 1, 2) for p in f.chunk(qkv, 3))
    scores = f.scale(f.matmul(q, f.swap(k)))
    if around.bias:
        scores = f.add(scores, f.narrow(around.bias, -1, s))
    scores = f.masked_fill(scores, around.masks[0])  # type: ignore[arg-type]  # alibi.surround has made it
    weights = f.to(f.softmax(f.to(scores, "fp32")), v.dtype)
    weights = around.weights = around.returned = f.dropout(weights, block.dropout)
    out = f.contiguous(f.transpose(f.matmul(weights, v), 1, 2))
    return project(t, block, out, around)


@rule(Attention, "falcon")
def falcon(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """FalconAttention.forward: the mask is always built; eager scores are not widened (modeling_falcon.py)."""
    b, s = x.shape[:2]
    qkv = run(t, block.qkv, x, around)
    q, k, v = split_falcon(t, block, qkv)
    if around.rotary and not block.alibi:
        q, k = rotated(q, k, around.rotary)
    if t.setting.attention != "eager":
        out = f.attention(q, k, v, around.mask(0), block.dropout if block.alibi else 0.0, gqa=False)
    elif block.alibi:
        return falcon_biased(t, block, (q, k, v), x.dtype, around)
    else:
        out = falcon_scores(q, k, v, x.dtype, around)
    out = f.reshape(f.transpose(out, 1, 2), b, s, -1)
    out = run(t, block.out, out, around)
    return out  # noqa: RET504 - the name lets go of what it stood for before the others do


def falcon_scores(q: Value, k: Value, v: Value, dtype: str, around: Around) -> Value:
    """The eager half of FalconAttention.forward: softmax in the hidden states' dtype; one name for scores and weights."""
    scores = f.scale_(f.matmul(q, f.swap(k)))
    mask = around.mask(0)
    scores = around.weights = around.returned = f.softmax(scores if mask is None else f.add(scores, mask), dtype)
    return f.matmul(scores, v)


def falcon_biased(t: Tape, block: Attention, qkv: tuple[Value, Value, Value], dtype: str, around: Around) -> Value:
    """The same with ALiBi: every step has a name of its own, which lasts to the end."""
    q, k, v = qkv
    scores = f.matmul(q, f.swap(k))
    wide = f.to(scores, "fp32")
    logits = f.scale_(f.add(wide, around.bias))  # type: ignore[arg-type]  # alibi.surround has made it
    weights = f.softmax(f.add(logits, around.masks[0]), dtype)  # type: ignore[arg-type]
    weights = around.weights = around.returned = f.dropout(weights, block.dropout)
    out = f.matmul(weights, v)
    out = f.reshape(f.transpose(out, 1, 2), out.shape[0], out.shape[2], -1)
    return run(t, block.out, out, around)


def split_falcon(t: Tape, block: Attention, qkv: Value) -> tuple[Value, Value, Value]:
    """FalconAttention._split_heads: grouped heads (keys and values copied to all), three of each, or one for all."""
    b, s = qkv.shape[:2]
    h, kv, d = block.heads, block.kv_heads, block.head_dim
    if kv == h and not block.copied:
        parts = f.view(qkv, b, s, h, 3, d)
        q, k, v = (f.select(parts, 3) for _ in range(3))
    else:
        groups = f.view(qkv, b, s, kv, h // kv + 2, d)
        q = f.reshape(f.narrow(groups, 3, h // kv), b, s, h, d)
        k, v = (f.index(groups, t.new((1,), "int64"), (b, s, kv, 1, d)) for _ in range(2))
        if block.copied:
            k, v = (f.reshape(f.expand(p, b, s, kv, h // kv, d), b, s, h, d) for p in (k, v))
        else:
            k, v = (f.reshape(p, b, s, 1, d) for p in (k, v))
    q = f.reshape(f.transpose(q, 1, 2), b, q.shape[2], s, d)
    k = f.reshape(f.transpose(k, 1, 2), b, k.shape[2], s, d)
    v = f.reshape(f.transpose(v, 1, 2), b, v.shape[2], s, d)
    return q, k, v


@rule(Attention, "gpt_bigcode")
def gpt_bigcode(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """GPTBigCodeAttention.forward: one key and value head behind the queries (modeling_gpt_bigcode.py)."""
    b, s = x.shape[:2]
    h, kv, d = block.heads, block.kv_heads, block.head_dim
    t.given((t.context, t.context), "bool", ".bias")  # which nothing reads
    qkv = run(t, block.qkv, x, around)
    if kv == 1:
        q, k, v = f.split(f.unsqueeze(qkv, 1), (h * d, d, d), 3)
        q = f.transpose(f.view(q, b, s, h, d), 1, 2)
    else:
        q, k, v = f.split(f.transpose(f.view(qkv, b, s, h, 3 * d), 1, 2), (d, d, d), 3)
    return project(t, block, attend(t, block, q, k, v, around), around)


@rule(Attention, "xglm")
def xglm(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """XGLMAttention.forward: batched products of all heads, scores held above the least number (modeling_xglm.py)."""
    b, s = x.shape[:2]
    h, d = block.heads, block.head_dim
    q = f.scale(run(t, block.q, x, around))
    k, v = (heads(run(t, part, x, around), h) for part in (block.k, block.v))
    q, k, v = (f.reshape(part, b * h, s, d) for part in (heads(q, h), k, v))
    weights = f.matmul(q, f.swap(k))
    mask = around.mask(0)
    if mask is not None:
        weights = f.add(f.view(weights, b, h, s, s), mask)
        weights = f.view(f.maximum(weights, t.new((), weights.dtype)), b * h, s, s)
    weights = f.to(f.softmax(weights, "fp32"), weights.dtype) if weights.dtype == "fp16" else f.softmax(weights)
    around.weights = weights
    weights = f.dropout(weights, block.dropout)
    out = f.transpose(f.view(f.matmul(weights, v), b, h, s, d), 1, 2)
    return run(t, block.out, f.reshape(out, b, s, h * d), around)


@rule(Attention, "granite_swa")
def granite_swa(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """GraniteSWAAttention.forward: sinks scale the output of a head instead of joining its scores."""
    q, k, v = separate(t, block, x, around)
    tables = around.tables(block.rotary_kind)
    if block.rotary_dim and tables:
        q, k = rotated(q, k, tables)
    groups = block.heads // block.kv_heads
    keys, values = repeat_kv(k, groups), repeat_kv(v, groups)
    weights = f.scale(f.matmul(q, f.swap(keys)))
    mask = around.mask(block.window)
    if mask is not None:
        weights = f.add(weights, mask)
    total = f.logsumexp(weights)
    sinks = f.reshape(t.weight("sinks", (block.heads,)), 1, -1, 1)
    share = f.sigmoid(f.to(f.subtract(total, sinks), "fp32"))
    weights = f.dropout(f.to(f.softmax(weights, "fp32"), q.dtype), block.dropout)
    out = f.matmul(weights, values)
    out = f.mul(out, f.to(f.unsqueeze(share, -1), out.dtype))
    return project(t, block, f.contiguous(f.transpose(out, 1, 2)), around)
