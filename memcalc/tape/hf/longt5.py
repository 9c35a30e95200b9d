"""LongT5's encoder: attention within blocks and to their neighbours, and to summaries of blocks (modeling_longt5.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.tape import functions as f
from memcalc.tape.autograd import Leaf
from memcalc.tape.hf.masks import local_mask, local_shape
from memcalc.tape.hf.position_biases import buckets
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Attention, "longt5-local")
def local(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """LongT5LocalAttention.forward."""
    q, k, v = (split(t, block, run(t, part, x, around)) for part in (block.q, block.k, block.v))
    k = neighbours(k)
    v = neighbours(v)
    scores = f.einsum("bnqhd,bnkhd->bnhqk", q, k)
    mask = None
    if around.bias is None:
        bias = own_bias(t, block, scores)
        mask = t.new(local_shape(block, x), "fp32")
        around.bias, around.hands = f.add(bias, f.transpose(mask, 1, 2)), True
        del bias
    return weighted(t, block, f.add_(scores, around.bias), v, x, around)


@rule(Attention, "longt5-transient-global")
def transient_global(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """LongT5TransientGlobalAttention.forward."""
    batch, seq, _ = x.shape
    norm, *_ = block.before
    summaries = run(t, norm, aggregates(t, x, seq // block.group), around)
    q, k, v = (run(t, part, x, around) for part in (block.q, block.k, block.v))
    side_k, side_v = run(t, block.k, summaries, around), run(t, block.v, summaries, around)
    q, k, v = (split(t, block, part) for part in (q, k, v))
    k = neighbours(k)
    v = neighbours(v)
    side_k, side_v = (tiled(block, side, k.shape[1]) for side in (side_k, side_v))
    k = f.cat((k, side_k), 2)
    v = f.cat((v, side_v), 2)
    scores = f.einsum("bnqhd,bnkhd->bnhqk", q, k)
    mask = local_mask(t, block, x)
    mask = t.new(mask.shape, "fp32")
    if around.bias is None:
        bias = f.add(own_bias(t, block, scores), f.transpose(mask, 1, 2))
        bias = f.to(bias, scores.dtype)
        side = side_bias(t, block, batch, seq, around)
        side = f.to(f.transpose(blocks(block, side, 2), 1, 2), scores.dtype)
        around.bias, around.hands = f.cat((bias, side), -1), True
        del bias, side
    return weighted(t, block, f.add_(scores, around.bias), v, x, around)


def split(t: Tape, block: Attention, x: Value) -> Value:
    """_split_into_blocks of [batch, seq, heads, dim]."""
    return blocks(block, f.view(x, *x.shape[:2], block.heads, block.head_dim), 1)


def blocks(block: Attention, x: Value, axis: int) -> Value:
    """An axis cut into blocks, padded first where it doesn't divide."""
    size = block.window
    if x.shape[axis] % size:
        x = f.pad(x, axis, -x.shape[axis] % size)
    return f.reshape(x, *x.shape[:axis], x.shape[axis] // size, size, *x.shape[axis + 1 :])


def neighbours(x: Value) -> Value:
    """_concatenate_3_blocks: each block behind the one before it and ahead of the next."""
    count = x.shape[1]
    x = f.pad(x, 1, 2)
    return f.cat([f.narrow(x, 1, count) for _ in range(3)], 2)


def own_bias(t: Tape, block: Attention, scores: Value) -> Value:
    """compute_bias of a block and its neighbours; zeros where no layer before has a table."""
    size = block.window
    if block.bias_table is None:
        bias = t.new((1, 1, block.heads, size, 3 * size), scores.dtype)
        if t.setting.checkpoint:
            bias.node = Leaf(t, bias)
        return bias
    distances = t.new((size, 3 * size), "int64")
    values = run(t, block.bias_table, buckets(distances, both=True), Around())
    return f.unsqueeze(f.unsqueeze(f.permute(values, 2, 0, 1), 0), 0)


def side_bias(t: Tape, block: Attention, batch: int, seq: int, around: Around) -> Value:
    """compute_side_bias: [batch, heads, seq, blocks]."""
    count = seq // block.group
    allowed = f.compare(t.new((batch, 1, seq, count), "bool"))
    masked = t.new(allowed.shape, "fp32")
    bucket = buckets(t.new((batch, seq, count), "int64"), both=True)
    table = next((part for part in block.before[1:]), None)
    if table is None:
        return masked
    values = run(t, table, bucket, around)
    return f.add(masked, f.permute(values, 0, 3, 1, 2))


def aggregates(t: Tape, x: Value, count: int) -> Value:
    """_create_global_aggregates: the sum of each block's tokens, by a product with their one-hot numbers."""
    batch, seq, _ = x.shape
    hot = t.new((batch, seq, count + 1), "int64")
    return f.einsum("bnd,bng->bgd", x, f.to(f.narrow(hot, -1, count), x.dtype))


def tiled(block: Attention, side: Value, count: int) -> Value:
    """Summaries repeated for every block."""
    side = f.view(side, *side.shape[:2], block.heads, block.head_dim)
    return f.repeat(f.unsqueeze(side, 1), count, 1)


def weighted(t: Tape, block: Attention, scores: Value, v: Value, x: Value, around: Around) -> Value:
    """From the scores to the module's output, cut to the length of the sequence."""
    weights = f.to(f.softmax(f.to(scores, "fp32")), scores.dtype)
    weights = f.to(f.dropout(weights, block.dropout), v.dtype)
    out = f.contiguous(f.einsum("bnhqk,bnkhd->bnqhd", weights, v))
    out = f.narrow(f.view(out, x.shape[0], -1, block.heads * block.head_dim), 1, x.shape[1])
    return run(t, block.out, out, around)
