"""DeepSeek-V4's attention: a window, compressed keys behind it, and an indexer's choice among them (modeling_deepseek_v4.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.mla import CompressedAttention, Compressor, CompressorIndexer
from memcalc.blocks.mlp import Mlp, Router
from memcalc.tape import functions as f
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.adapters import adapted_matrix
from memcalc.tape.hf.attention import eager
from memcalc.tape.hf.hyper import frequencies, half_tables, unweighted_norm
from memcalc.tape.hf.rotary import rotate_pairs
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.tape.hf.hyper import Tables
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(CompressedAttention)
def attention(t: Tape, block: CompressedAttention, x: Value, around: Around) -> Value:
    """DeepseekV4Attention.forward: one head of keys, which are the values too, read by all."""
    b, s = x.shape[:2]
    tables = around.ropes["compress" if block.compressor else "main"]
    residual = run(t, block.q_norm, run(t, block.q_a, x, around), around)
    q = unweighted_norm(by_heads(run(t, block.q_b, residual, around), block.heads))
    q = rotated(q, tables)
    kv = rotated(by_heads(run(t, block.kv_norm, run(t, block.kv, x, around), around), 1), tables)
    mask = around.mask(0)
    if isinstance(block.compressor, Compressor):
        more, seen = compressed(t, block.compressor, x, residual, block.rotary_dim, around)
        kv = f.cat((kv, more), 2)
        mask = with_columns(mask, more, seen)
    kernel = Attention("", block.heads, 1, block.head_dim, sinks=True, dropout=block.dropout)
    out = eager(t, kernel, q, kv, kv, mask, around)
    cos, sin = tables
    out = f.transpose(rotated(f.transpose(out, 1, 2), (cos, f.neg(sin))), 1, 2)
    return run(t, block.out_b, grouped(t, block, f.reshape(out, b, s, block.out_groups, -1)), around)


def by_heads(x: Value, heads: int) -> Value:
    """[batch, seq, heads * dim] seen as [batch, heads, seq, dim]."""
    return f.transpose(f.view(x, *x.shape[:2], heads, x.shape[-1] // heads), 1, 2)


def rotated(x: Value, tables: Tables) -> Value:
    """apply_rotary_pos_emb: the last channels of each head by pairs, in fp32."""
    cos, sin = (f.unsqueeze(f.repeat_interleave(table, 2, 2), 1) for table in tables)
    dim = cos.shape[-1]
    rest, part = f.narrow(x, -1, x.shape[-1] - dim), f.narrow(x, -1, dim)
    turned = f.to(f.add(f.mul(f.to(part, "fp32"), cos), f.mul(f.to(rotate_pairs(part), "fp32"), sin)), x.dtype)
    return f.cat((rest, turned))


def with_columns(mask: Value | None, more: Value, seen: Value | None) -> Value | None:
    """The mask with the compressed keys' columns, or with zeros for them."""
    if mask is None or not more.shape[2]:
        return mask
    return f.pad(mask, -1, more.shape[2]) if seen is None else f.cat((mask, f.to(seen, mask.dtype)))


def grouped(t: Tape, block: CompressedAttention, x: Value) -> Value:
    """DeepseekV4GroupedLinear.forward of [batch, seq, groups, channels], and its groups side by side."""
    b, s, groups, width = x.shape
    assert block.out_a  # noqa: S101 - the architecture gives it one
    with inside(t, block.out_a):
        weight = f.transpose(f.view(t.weight("weight", (groups * block.out_rank, width)), groups, -1, width), 1, 2)
        rows = f.transpose(f.reshape(x, -1, groups, width), 0, 1)
        return f.reshape(f.transpose(f.bmm(f.lower(rows), f.lower(weight)), 0, 1), b, s, -1)


def compressed(
    t: Tape, block: Compressor, x: Value, residual: Value, rotary_dim: int, around: Around
) -> tuple[Value, Value | None]:
    """DeepseekV4HCACompressor.forward and DeepseekV4CSACompressor's: (keys [batch, 1, windows, dim], what each query sees)."""
    b, s = x.shape[:2]
    with inside(t, block):
        frequencies(t, rotary_dim)
        keys = f.unsqueeze(windows(t, block, x, rotary_dim, around), 1)
        count = keys.shape[2]
        if isinstance(block.indexer, CompressorIndexer):
            with inside(t, block.indexer):
                chosen = choice(t, block.indexer, x, residual, rotary_dim, around)
            return keys, seen_of(t, keys, chosen)
        if not count:
            return keys, None
        zeros = t.new((b, 1, s, count), keys.dtype)
        return keys, f.masked_fill(zeros, t.new((1, 1, s, count), "bool"))


def windows(t: Tape, block: Compressor, x: Value, rotary_dim: int, around: Around) -> Value:
    """One entry of every whole window of `rate` tokens: [batch, windows, dim]."""
    b, s = x.shape[:2]
    kv, gate = run(t, block.kv, x, around), run(t, block.gate, x, around)
    count = s // block.rate
    if count * block.rate < s:
        kv, gate = (f.narrow(part, 1, count * block.rate) for part in (kv, gate))
    if not count:
        return t.new((b, 0, block.head_dim), kv.dtype)
    kv, gate = (f.view(part, b, count, block.rate, part.shape[-1]) for part in (kv, gate))
    gate = f.add(gate, t.weight("position_bias", (block.rate, gate.shape[-1])))
    if block.overlapping:
        kv, gate = overlapped(block, kv), overlapped(block, gate)
    pooled = f.total(f.mul(kv, f.to(f.softmax(gate, "fp32"), kv.dtype)), 2)
    pooled = run(t, block.norm, pooled, around)
    return f.squeeze(rotated(f.unsqueeze(pooled, 1), half_tables(t, b, count, rotary_dim, pooled.dtype)), 1)


def overlapped(block: Compressor, x: Value) -> Value:
    """[batch, windows, 2 rate, dim]: the second half of a window's channels behind the first half of the one before."""
    b, count, rate, _ = x.shape
    out = x.tape.new((b, count, 2 * rate, block.head_dim), x.dtype)
    out = f.assign(out, f.narrow(x, -1, block.head_dim))
    if count > 1:
        out = f.assign(out, f.narrow(f.narrow(x, 1, count - 1), -1, block.head_dim))
    return out


def choice(t: Tape, block: CompressorIndexer, x: Value, residual: Value, rotary_dim: int, around: Around) -> Value:
    """DeepseekV4Indexer.forward: the indices of the best entries, and -1 for those to come; its graph leads nowhere."""
    b, s = x.shape[:2]
    frequencies(t, rotary_dim)
    keys = windows(t, block, x, rotary_dim, around)
    tables = half_tables(t, 1, s, rotary_dim, x.dtype)
    q = f.transpose(rotated(by_heads(run(t, block.q, residual, around), block.heads), tables), 1, 2)
    found = scores(t, block, q, keys, x, around)
    k = min(block.top_k, keys.shape[1])
    if keys.shape[1]:
        future = t.new((1, s, keys.shape[1]), "bool")
        found = f.masked_fill(found, future)
    _, chosen = f.topk(found, k)
    invalid, nothing = t.new((b, s, k), "bool"), t.new((b, s, k), "int64")
    out = t.new((b, s, k), "int64")
    del invalid, nothing
    return out


def scores(t: Tape, block: CompressorIndexer, q: Value, keys: Value, x: Value, around: Around) -> Value:
    """DeepseekV4IndexerScorer.forward: in fp32, of every query for every entry, over all heads: [batch, seq, windows]."""
    found = f.matmul(f.to(q, "fp32"), f.unsqueeze(f.to(f.swap(keys), "fp32"), 1))
    found = f.scale(f.relu(found))
    weights = f.scale(f.to(run(t, block.weights, x, around), "fp32"))
    return f.total(f.mul(found, f.unsqueeze(weights, -1)), 2)


def seen_of(t: Tape, keys: Value, chosen: Value) -> Value:
    """Zeros at the chosen entries, -inf at the others, and a column for those that are none."""
    b, s, k = chosen.shape
    valid, beyond = t.new((b, s, k), "bool"), t.new((b, s, k), "int64")
    safe = t.new((b, s, k), "int64")
    del beyond
    bias = t.new((b, 1, s, keys.shape[2] + 1), keys.dtype)
    del valid, safe
    return f.narrow(bias, -1, keys.shape[2])


@rule(Router, "deepseek_v4")
def router(t: Tape, block: Router, x: Value, around: Around) -> Value:
    """DeepseekV4TopKRouter.forward, and DeepseekV4HashRouter's, which looks the choice up: root of softplus for a score."""
    logits = f.linear(x, adapted_matrix(t, t.weight("weight", (block.experts, block.inputs))))
    values = f.square_root(f.softplus(logits))
    if block.table:
        chosen = t.new((x.shape[0], block.top_k), "int64")
    else:
        _, chosen = f.topk(f.shift(values), block.top_k)
    weights = f.gather(values, chosen, chosen.shape)
    weights = f.div(weights, f.shift(f.total(weights, -1, keep=True)))
    around.chosen = (f.scale(weights), chosen)
    return logits


@rule(Mlp, "deepseek_v4")
def shared(t: Tape, block: Mlp, x: Value, around: Around) -> Value:
    """DeepseekV4MLP.forward: both halves clamped."""
    gate, up = f.clamp(run(t, block.gate, x, around)), f.clamp(run(t, block.up, x, around))
    return run(t, block.down, f.mul(activate(block.activation, gate), up), around)
