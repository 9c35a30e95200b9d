"""Segment Anything's image encoder: windows of a map, biases of relative positions along both axes (modeling_sam.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.image import Untokened, Windows
from memcalc.blocks.segmenting import Unread
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Untokened)
def untokened(t: Tape, block: Untokened, x: Value, around: Around) -> Value:
    """SamPatchEmbeddings.forward: channels last; nothing is made ahead of the layers."""
    around.ready = True
    return f.permute(x, 0, 2, 3, 1)


@rule(Windows)
def windows(t: Tape, block: Windows, x: Value, around: Around) -> Value:
    """SamVisionLayer.window_partition, the blocks, window_unpartition."""
    batch, rows, columns, width = x.shape
    size = block.size
    high, wide = (-(-n // size) * size for n in (rows, columns))
    x = f.clone(x) if (high, wide) == (rows, columns) else f.pad_both(x, (1, 2), (high, wide))
    x = f.reshape(x, batch, high // size, size, wide // size, size, width)
    x = f.reshape(f.contiguous(f.permute(x, 0, 1, 3, 2, 4, 5)), -1, size, size, width)
    for part in block.blocks:
        x = run(t, part, x, around)
    x = f.reshape(x, batch, high // size, wide // size, size, size, width)
    x = f.reshape(f.contiguous(f.permute(x, 0, 1, 3, 2, 4, 5)), batch, high, wide, width)
    return f.contiguous(f.narrow(f.narrow(x, 1, rows), 2, columns))


@rule(Attention, "sam")
def sam_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """SamVisionAttention.forward, SamVisionSdpaAttention.forward."""
    batch, rows, columns, width = x.shape
    tokens, heads = rows * columns, block.heads
    qkv = f.permute(f.reshape(run(t, block.qkv, x, around), batch, tokens, 3, heads, -1), 2, 0, 3, 1, 4)
    q, k, v = f.unbind(f.reshape(qkv, 3, batch * heads, tokens, -1), 0)
    eagerly, weights, bias = block.eager_only or t.setting.attention == "eager", None, None
    if eagerly:
        weights = f.matmul(f.scale(q), f.swap(k))
    if block.scores_bias:
        bias = decomposed(t, block, q, (rows, columns))
        bias = (
            f.reshape(bias, batch * heads, tokens, tokens) if eagerly else f.reshape(bias, batch, heads, tokens, tokens)
        )
    if weights is not None:
        weights = f.add(weights, bias) if bias is not None else weights
        weights = f.to(f.softmax(weights, "fp32"), q.dtype)
        out = f.matmul(f.dropout(weights, block.dropout), v)
    else:
        query, key, value = (f.reshape(part, batch, heads, tokens, -1) for part in (q, k, v))
        out = f.attention(query, key, value, bias)
    out = f.permute(f.reshape(out, batch, heads, rows, columns, -1), 0, 2, 3, 1, 4)
    out = run(t, block.out, f.reshape(out, batch, rows, columns, width), around)
    del qkv, q, k, v, weights, bias  # names of the function
    return out


def decomposed(t: Tape, block: Attention, q: Value, size: tuple[int, int]) -> Value:
    """SamVisionAttention.get_decomposed_rel_pos: [batch · heads, rows, columns, rows, columns]."""
    (rows, columns), (high, wide) = size, (param.shape for param in block.extra)
    down = between(t, t.weight("rel_pos_h", high), rows)
    across = between(t, t.weight("rel_pos_w", wide), columns)
    asked = f.reshape(q, q.shape[0], rows, columns, q.shape[-1])
    by_row = f.einsum("bhwc,hkc->bhwk", asked, down)
    by_column = f.einsum("bhwc,wkc->bhwk", asked, across)
    return f.add(f.unsqueeze(by_row, 4), f.unsqueeze(by_column, 3))


def between(t: Tape, table: Value, size: int) -> Value:
    """get_rel_pos: the table resampled, and read for every pair of places: [size, size, channels]."""
    longest, channels = 2 * size - 1, table.shape[-1]
    picture = f.unsqueeze(f.transpose(f.reshape(table, 1, table.shape[0], channels), 1, 2), -1)
    resized = maps.interpolate(picture, (longest, 1))
    resized = f.permute(f.reshape(resized, channels, longest), 1, 0)
    where = t.new((size, size), "int64")
    return f.index(resized, where, (size, size, channels))


@rule(Unread)
def unread(_: Tape, block: Unread, x: Value, around: Around) -> Value:
    """Modules whose steps are not known: the model says so."""
    return x
