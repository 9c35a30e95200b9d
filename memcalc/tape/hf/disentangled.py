"""DeBERTa: disentangled attention, its masks that are always made, and the convolution beside its first layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.basic import Norm
from memcalc.blocks.disentangled import (
    DisentangledAttention,
    DisentangledEncoder,
    FirstLayerConv,
    PaddingMask,
    RelativeTable,
)
from memcalc.tape import functions as f
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.attention import project
from memcalc.tape.hf.combinators import sequence
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(PaddingMask)
def padding_mask(t: Tape, block: PaddingMask, x: Value, around: Around) -> Value:
    """DebertaV2Embeddings.forward: embeddings times the mask of padding, which the model makes where none is given."""
    around.padding = t.new(x.shape[:2], "fp32")
    return f.mul(x, f.to(f.unsqueeze(around.padding, -1), x.dtype))


@rule(DisentangledEncoder)
def encoder(t: Tape, block: DisentangledEncoder, x: Value, around: Around) -> Value:
    """DebertaV2Encoder.forward: the mask [batch, 1, seq, seq], the distances of all pairs, the layers."""
    batch, seq = x.shape[:2]
    around.padding = t.new((batch, 1, seq, seq), "fp32") if block.pairs else t.new((batch, 1, 1, seq), "int64")
    around.keeps = block.pairs
    if any(isinstance(part, FirstLayerConv) for part in block.blocks):
        conv, path = next(part for part in block.blocks if isinstance(part, FirstLayerConv)), t.path
        around.after_first = lambda before, first: beside(t, conv, path, before, first)
    if any(isinstance(part, RelativeTable) for part in block.blocks):
        around.distances = t.new((1, seq, seq), "int64")
    return sequence(t, block, x, around)


@rule(FirstLayerConv)
def listed(_: Tape, block: FirstLayerConv, x: Value, around: Around) -> Value:
    """It has run behind the first layer."""
    return x


def beside(t: Tape, block: FirstLayerConv, path: str, x: Value, first: Value) -> Value:
    """ConvLayer.forward: norm(first layer's output + act(dropout(conv(embeddings)))), masked twice."""
    before, instance = (t.path, t.instance), t.instance
    t.path, t.instance = path, ""
    with inside(t, block):
        out = run(t, block.conv, f.contiguous(f.permute(x, 0, 2, 1)), Around())
        out = f.contiguous(f.permute(out, 0, 2, 1))
        out = f.masked_fill_(out, t.new(x.shape[:2], "bool"))
        out = activate(block.activation, f.dropout(out, block.dropout))
        summed = f.add(first, out)
        normal = f.to(run(t, block.norm, summed, Around()), summed.dtype)
    t.path, t.instance = before[0], instance
    return f.mul(normal, f.unsqueeze(t.new(x.shape[:2], normal.dtype), -1))


@rule(DisentangledAttention, "deberta-v2")
def attention_v2(t: Tape, block: DisentangledAttention, x: Value, around: Around) -> Value:
    """DebertaV2Attention.forward, whose projection comes when all names of the attention are gone."""
    return project(t, block, context_v2(t, block, x, around), around)


def context_v2(t: Tape, block: DisentangledAttention, x: Value, around: Around) -> Value:
    """DisentangledSelfAttention.forward: heads folded into the batch (modeling_deberta_v2.py)."""
    q, k, v = (by_head(run(t, part, x, around), block.heads) for part in (block.q, block.k, block.v))
    scores = f.bmm(q, f.scale(f.swap(k)))
    if around.table is not None:
        rel = f.dropout(around.table, block.position_dropout)
        bias = bias_v2(t, block, q, k, rel, around)
        if bias is not None:
            scores = f.add(scores, bias)
    batch, seq = x.shape[:2]
    scores = f.view(scores, batch, block.heads, seq, seq)
    scores, allowed = masked(t, scores, around)
    weights = f.softmax(scores)
    weights = f.dropout(weights, block.dropout)
    out = f.bmm(f.lower(f.view(weights, -1, seq, seq)), v)
    out = f.contiguous(f.permute(f.view(out, batch, block.heads, seq, -1), 0, 2, 1, 3))
    del allowed
    return out


def by_head(x: Value, heads: int) -> Value:
    """transpose_for_scores: [batch, seq, heads * dim] copied to [batch * heads, seq, dim]."""
    split = f.permute(f.view(x, *x.shape[:2], heads, -1), 0, 2, 1, 3)
    return f.view(f.contiguous(split), -1, x.shape[1], x.shape[-1] // heads)


def masked(t: Tape, scores: Value, around: Around) -> tuple[Value, Value]:
    """(scores.masked_fill(~mask.bool(), …), mask.bool(), which keeps a name)."""
    mask = around.padding
    assert mask is not None  # noqa: S101 - the encoder has made it
    allowed = t.new(mask.shape, "bool")
    return f.masked_fill(scores, t.new(allowed.shape, "bool")), allowed


def bias_v2(t: Tape, block: DisentangledAttention, q: Value, k: Value, rel: Value, around: Around) -> Value | None:
    """disentangled_attention_bias: content to position, and position to content."""
    rel = f.unsqueeze(f.narrow(rel, 0, min(2 * block.span, rel.shape[0])), 0)
    to_query, to_key = (block.q, block.k) if block.shared else (block.pos_query, block.pos_key)
    repeats = q.shape[0] // block.heads
    if block.shared or block.p2c:
        pos_query = repeated(by_head(run(t, to_query, rel, around), block.heads), repeats)
    if block.shared or block.c2p:
        pos_key = repeated(by_head(run(t, to_key, rel, around), block.heads), repeats)
    score: Value | None = None
    if block.c2p:
        c2p = f.bmm(q, f.swap(pos_key))
        forth = clamped(around.distances)
        c2p = picked(c2p, forth)
        score = f.shift(f.scale(c2p))
    if block.p2c:
        back = clamped(f.neg(around.distances))  # type: ignore[arg-type]  # the encoder has made them
        p2c = f.swap(picked(f.bmm(k, f.swap(pos_query)), back))
        score = f.shift(f.scale(p2c)) if score is None else f.add_(score, f.scale(p2c))
    return score


def repeated(x: Value, times: int) -> Value:
    """x.repeat(times, 1, 1): a copy in any case."""
    copy = f.clone(f.expand(f.unsqueeze(x, 0), times, *x.shape))
    return f.view(copy, -1, *x.shape[1:])


def clamped(distances: Value | None) -> Value:
    """torch.clamp(distances + span, 0, 2 * span - 1)."""
    assert distances is not None  # noqa: S101
    return f.scale(f.shift(distances))


def picked(scores: Value, where: Value) -> Value:
    """torch.gather along the last axis by the distance of each pair, the indices seen for every head."""
    index = f.expand(
        f.reshape(where, *[1] * (len(scores.shape) - 2), *where.shape[-2:]), *scores.shape[:-1], where.shape[-1]
    )
    return f.take_along(scores, index, index.shape)


@rule(DisentangledAttention, "deberta")
def attention_v1(t: Tape, block: DisentangledAttention, x: Value, around: Around) -> Value:
    """DebertaAttention.forward, whose projection comes when all names of the attention are gone."""
    return project(t, block, context_v1(t, block, x, around), around)


def context_v1(t: Tape, block: DisentangledAttention, x: Value, around: Around) -> Value:
    """DisentangledSelfAttention.forward: one projection, two biases beside it (modeling_deberta.py)."""
    qkv = run(t, block.qkv, x, around)
    q, k, v = f.chunk(f.permute(f.view(qkv, *x.shape[:2], block.heads, -1), 0, 2, 1, 3), 3)
    q, v = added(t, block, q, "self.q_bias"), added(t, block, v, "self.v_bias")
    q = f.scale(q)
    scores = f.matmul(q, f.swap(k))
    bias = None
    if around.table is not None:
        rel = f.dropout(around.table, block.position_dropout)
        bias = bias_v1(t, block, q, k, rel, around)
    scores = f.add(scores, bias) if bias is not None else f.shift(scores)
    scores = mixed(t, block.logits_mix, scores, around)
    scores, allowed = masked(t, scores, around)
    weights = f.softmax(scores)
    weights = mixed(t, block.weights_mix, f.dropout(weights, block.dropout), around)
    out = f.contiguous(f.permute(f.matmul(weights, v), 0, 2, 1, 3))
    del allowed
    return out


def added(t: Tape, block: DisentangledAttention, x: Value, name: str) -> Value:
    """x plus a bias of each head."""
    bias = t.weight(name, (block.heads * block.head_dim,))
    return f.add(x, f.permute(f.view(bias, 1, 1, block.heads, -1), 0, 2, 1, 3))


def mixed(t: Tape, mix: Block | None, x: Value, around: Around) -> Value:
    """Talking heads: a linear layer over the heads' axis."""
    return f.permute(run(t, mix, f.permute(x, 0, 2, 3, 1), around), 0, 3, 1, 2) if mix else x


def bias_v1(t: Tape, block: DisentangledAttention, q: Value, k: Value, rel: Value, around: Around) -> Value | None:
    """disentangled_att_bias: the rows of the table that a sequence of this length can need."""
    span = min(max(q.shape[-2], k.shape[-2]), block.span)
    rel = f.unsqueeze(f.narrow(rel, 0, 2 * span), 0)
    score: Value | None = None
    if block.c2p:
        pos_key = split_heads(run(t, block.pos_key, rel, around), block.heads)
        c2p = f.matmul(q, f.swap(pos_key))
        forth = clamped(around.distances)
        c2p = picked(c2p, forth)
        score = f.shift(c2p)
    if block.p2c:
        pos_query = split_heads(run(t, block.pos_query, rel, around), block.heads)
        back = clamped(f.neg(around.distances))  # type: ignore[arg-type]  # the encoder has made them
        p2c = f.swap(picked(f.matmul(k, f.to(f.swap(pos_query), k.dtype)), back))
        score = f.shift(p2c) if score is None else f.add_(score, p2c)
    return score


def split_heads(x: Value, heads: int) -> Value:
    """[1, rows, heads * dim] seen as [1, heads, rows, dim]."""
    return f.permute(f.view(x, *x.shape[:2], heads, -1), 0, 2, 1, 3)


@rule(Norm, "deberta")
def norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """DebertaLayerNorm.forward: mean and variance by hand in fp32 (modeling_deberta.py)."""
    dtype = x.dtype
    x = f.to(x, "fp32")
    mean = f.mean(x, -1)
    variance = f.mean(f.square(f.subtract(x, mean)), -1)
    x = f.to(f.div(f.subtract(x, mean), f.square_root(f.shift(variance))), dtype)
    weight, bias = t.weight("weight", (block.width,)), t.weight("bias", (block.width,))
    return f.add(f.mul(weight, x), bias)
