"""Segment Anything 2's image encoder: windows of a map, queries pooled, a pyramid of maps (modeling_sam2.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.multiscale import MapNeck, MultiScaleLayer, TiledPositions
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.hf.attention import attend, project
from memcalc.tape.hf.deformable_detr import sinusoids
from memcalc.tape.hf.masking import wide
from memcalc.tape.hf.refining import one_of
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.blocks.base import Block, Stack
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(TiledPositions)
def tiled_positions(t: Tape, block: TiledPositions, x: Value, around: Around) -> Value:
    """Sam2HieraDetModel._get_pos_embed, added."""
    _, rows, columns, width = x.shape
    around.masks = {0: None}
    table = maps.interpolate(t.weight("pos_embed", (1, width, *block.map)), (rows, columns))
    tile = t.weight("pos_embed_window", (1, width, block.window, block.window))
    tile = f.repeat(f.repeat(tile, rows // block.window, 2), columns // block.window, 3)
    return f.add(x, f.permute(f.add(table, tile), 0, 2, 3, 1))


@rule(MultiScaleLayer)
def multi_scale_layer(t: Tape, block: MultiScaleLayer, x: Value, around: Around) -> Value:
    """Sam2MultiScaleBlock.forward."""
    residual, x = x, run(t, block.before, x, around)
    size, window = x.shape[1:3], block.window
    if block.widen:
        residual = pooled(run(t, block.widen, x, around), block.stride)
    x = windows(x, window) if window else x
    with inside(t, cast("Block", block.mixer)):
        x = attended(t, cast("Attention", block.mixer), x, block.stride, around)
    if block.stride:
        window, size = window // block.stride[0], residual.shape[1:3]
    x = joined(x, window, (size[0], size[1])) if window else x
    x = f.add(residual, x)
    normed = run(t, block.after, x, around)
    return f.add(x, run(t, block.feed, normed, around))


def pooled(x: Value, stride: tuple[int, int] | None) -> Value:
    """do_pool: the maxima of a map whose channels come last."""
    if stride is None:
        return x
    size = (x.shape[1] // stride[0], x.shape[2] // stride[1])
    return f.permute(maps.max_pool(f.permute(x, 0, 3, 1, 2), size), 0, 2, 3, 1)


def windows(x: Value, window: int) -> Value:
    """window_partition: the map padded, cut and copied."""
    batch, rows, columns, width = x.shape
    high, wide = (-(-n // window) * window for n in (rows, columns))
    x = f.clone(x) if (high, wide) == (rows, columns) else f.pad_both(x, (1, 2), (high, wide))
    x = f.view(x, batch, high // window, window, wide // window, window, width)
    return f.view(f.contiguous(f.permute(x, 0, 1, 3, 2, 4, 5)), -1, window, window, width)


def joined(x: Value, window: int, size: tuple[int, int]) -> Value:
    """window_unpartition: a copy, and another without what was padded."""
    high, wide = (-(-n // window) for n in size)
    x = f.reshape(x, -1, high, wide, window, window, x.shape[-1])
    x = f.contiguous(f.permute(x, 0, 1, 3, 2, 4, 5))
    x = f.view(x, x.shape[0], high * window, wide * window, x.shape[-1])
    return f.contiguous(f.narrow(f.narrow(x, 1, size[0]), 2, size[1]))


def attended(t: Tape, block: Attention, x: Value, stride: tuple[int, int] | None, around: Around) -> Value:
    """Sam2MultiScaleAttention.forward, which also makes scores among its heads that nobody reads."""
    batch, rows, columns, _ = x.shape
    qkv = f.reshape(run(t, block.qkv, x, around), batch, rows * columns, 3, block.heads, -1)
    q, k, v = f.unbind(qkv, 2)
    _scores = f.to(f.softmax(f.matmul(f.scale(q), f.swap(k)), "fp32"), q.dtype)
    if stride:
        q = pooled(f.reshape(q, batch, rows, columns, -1), stride)
        rows, columns = q.shape[1:3]
        q = f.reshape(q, batch, rows * columns, block.heads, -1)
    q, k, v = (f.transpose(part, 1, 2) for part in (q, k, v))
    out = attend(t, block, q, k, v, around)
    return f.reshape(project(t, block, out, around), batch, rows, columns, -1)


@rule(MapNeck)
def map_neck(t: Tape, block: MapNeck, x: Value, around: Around) -> Value:
    """Sam2VisionNeck.forward: the mean of each of the maps that are read, where nothing reads them further."""
    hidden, last = around.outputs, len(around.outputs) - 1
    found: list[Value] = []
    for i in range(last, -1, -1):
        lateral = one_of(t, cast("Stack", block.convs), last - i, f.permute(hidden[i], 0, 3, 1, 2), around)
        if i in block.joined and i < last:
            rows, columns = found[-1].shape[2:]
            above = maps.interpolate(f.to(found[-1], "fp32"), (2 * rows, 2 * columns))
            lateral = f.add(lateral, f.to(above, lateral.dtype))
        found.append(lateral)
        t.outputs.append(_places(t, lateral, block.width, cached=not i))
    return f.stack([f.mean(one, 0, 1, 2, 3, keep=False) for one in found[-block.levels :]])


def _places(t: Tape, one: Value, width: int, *, cached: bool) -> Value:
    """Sam2SinePositionEmbedding.forward; what it makes last stays in its cache."""
    dtype = wide(one)
    if not cached:
        return f.to(sinusoids(t, one, width, dtype), one.dtype)
    batch, _, *size = one.shape
    angles = [t.new((batch, *size, width // 2), dtype) for _ in range(2)]
    del angles
    return f.to(t.given((batch, *size, width), dtype, ".places"), one.dtype)
