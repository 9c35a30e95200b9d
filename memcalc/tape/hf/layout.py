"""LayoutLMv3: text and page in one encoder (modeling_layoutlmv3.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.attention import Attention
from memcalc.blocks.layout import Boxes, Page, PlaceBiases, Placed, WordsAlone
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import project, separate
from memcalc.tape.hf.position_biases import buckets
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.basic import Embedding, Linear
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Boxes)
def boxes(t: Tape, block: Boxes, x: Value, _: Around) -> Value:
    """calculate_spatial_position_embeddings: left, upper, right, lower, height, width."""
    across, down, height, width = (table(t, one) for one in block.tables)
    places = t.given((*x.shape[:2], 4), "int64")
    corners = [f.embedding(f.select(places, -1), which) for which in (across, down, across, down)]
    sizes = [f.embedding(f.scale(f.scale(t.new(x.shape[:2], "int64"))), which) for which in (height, width)]
    return f.cat([*corners, *sizes])


@rule(Placed)
def placed(t: Tape, block: Placed, x: Value, around: Around) -> Value:
    """LayoutLMEmbeddings.forward up to its norm: all are looked up, then summed; the types come last."""
    boxes = t.new((*x.shape[:2], 4), "int64")
    t.held.append(boxes)
    line = {cast("Embedding", one).index: one for one in block.line}
    across, down, height, width = (table(t, one) for one in block.box)
    read = [run(t, line[index], x, around) for index in ("tokens", "positions")]
    read += [f.embedding(f.select(boxes, -1), which) for which in (across, down, across, down)]
    read += [f.embedding(t.new(x.shape[:2], "int64"), which) for which in (height, width)]
    read.append(run(t, line["types"], x, around))
    out = read[0]
    for one in read[1:]:
        out = f.add(out, one)
    around.summed += read
    return out


def table(t: Tape, block: Embedding | Linear) -> Value:
    """The weight of a module that another's function reads."""
    with inside(t, block):
        return t.weight("weight", block.own()[0].shape)


@rule(Page)
def page(t: Tape, block: Page, x: Value, around: Around) -> Value:
    """LayoutLMv3Model.forward before its encoder."""
    x = run(t, block.words, x, around)
    if block.patches is None:
        return x
    seen = run(t, block.inner, patched(t, block, x.shape[0]), around)
    t.held.append(seen)
    x = f.cat((x, seen), 1)
    x = run(t, block.norm, x, around)
    return f.dropout(x, block.dropout)


def patched(t: Tape, block: Page, batch: int) -> Value:
    """forward_image up to its norm."""
    conv = block.patches
    assert conv is not None  # noqa: S101 - the caller has looked
    pixels = t.given((batch, conv.inputs, *(block.side * size for size in conv.kernel)), t.setting.weights)
    with inside(t, conv):
        weight, bias = t.weight("weight", conv.own()[0].shape), t.weight("bias", (conv.outputs,))
    seen = f.conv(pixels, weight, bias, (block.side, block.side))
    seen = f.transpose(f.reshape(seen, batch, conv.outputs, -1), 1, 2)
    first = f.expand(t.weight("cls_token", (1, 1, conv.outputs)), batch, -1, -1)
    seen = f.cat((first, seen), 1)
    return f.add(seen, t.weight("pos_embed", (1, *seen.shape[1:])))


@rule(PlaceBiases)
def place_biases(t: Tape, block: PlaceBiases, x: Value, around: Around) -> Value:
    """_cal_1d_pos_emb, _cal_2d_pos_emb: read without a graph."""
    if block.text:
        around.bias = picked(t, block.text, x)
    if block.page:
        across, down = (picked(t, one, x) for one in block.page)
        around.cross_bias = f.add(across, down)
    return x


def picked(t: Tape, linear: Linear, x: Value) -> Value:
    """Of a table [heads, buckets] the column of every pair: [batch, heads, seq, seq]."""
    batch, seq = x.shape[:2]
    with t.no_grad():
        which = buckets(t.new((batch, seq, seq), "int64"), both=True)
        found = f.index(f.swap(table(t, linear)), which, (batch, seq, seq, linear.outputs))
    return f.contiguous(f.permute(found, 0, 3, 1, 2))


@rule(Attention, "layoutlmv3")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """LayoutLMv3SelfAttention.forward: scores and weights have names until it returns."""
    out = scored(t, block, x, around)
    around.handed.append(out)
    return project(t, block, out, around)


def scored(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """With the biases added in place, and the softmax of CogView."""
    q, k, v = separate(t, block, x, around)
    scores = f.matmul(f.scale(q), f.swap(k))
    if around.bias is not None:
        biases = around.bias if around.cross_bias is None else f.add(around.bias, around.cross_bias)
        scores = f.add_(scores, f.scale(biases))
        del biases
    mask = around.mask(0)
    if mask is not None:
        scores = f.add(scores, mask)
    weights = f.dropout(cogview(scores), block.dropout)
    around.handed.append(weights)
    return f.contiguous(f.permute(f.matmul(weights, v), 0, 2, 1, 3))


def cogview(scores: Value) -> Value:
    """cogview_attention: the largest of each row taken off before the softmax."""
    scaled = f.scale(scores)
    largest = f.unsqueeze(f.amax(scaled), -1)
    scores = f.scale(f.subtract(scaled, largest))
    return f.softmax(scores)


@rule(WordsAlone)
def words_alone(t: Tape, block: WordsAlone, x: Value, _: Around) -> Value:
    """outputs[0][:, :seq_length]."""
    return f.narrow(x, 1, t.setting.seq)
