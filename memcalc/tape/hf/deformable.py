"""Attention to a few points of maps of several sizes (modeling_deformable_detr.py, modeling_rt_detr.py, modeling_rt_detr_v2.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.attention import Attention
from memcalc.blocks.deformable import Deformable
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.hf.attention import attend, heads, project
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Shape, Value

SIDES = 4  # numbers of a box


@rule(Attention, "placed")
def placed(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """RTDetrSelfAttention.forward: positions join queries and keys, not values."""
    own, _ = cast("tuple[Value, Value]", around.rotary)
    read = f.add(x, own)
    q = heads(run(t, block.q, read, around), block.heads)
    k = heads(run(t, block.k, read, around), block.heads)
    v = heads(run(t, block.v, x, around), block.heads)
    out = attend(t, block, q, k, v, around)
    return project(t, block, out, around)


@rule(Deformable)
def deformable(t: Tape, block: Deformable, x: Value, around: Around) -> Value:
    """RTDetrMultiscaleDeformableAttention.forward, around boxes [batch, queries, 4] or places [batch, queries, levels, 2].

    The scene has the maps' sizes; `padding` says which pixels are there.
    """
    own, near = cast("tuple[Value, Value]", around.rotary)
    states = x if around.encoder is None else around.encoder
    x = f.add(x, own)
    batch, count = x.shape[:2]
    every = block.levels * block.points
    value = run(t, block.value, states, around)
    if around.padding is not None:
        value = f.masked_fill(value, f.unsqueeze(f.compare(around.padding), -1))
    value = f.view(value, batch, states.shape[1], block.heads, -1)
    offsets = f.view(run(t, block.offsets, x, around), batch, count, block.heads, every, 2)
    weights = f.view(run(t, block.weights, x, around), batch, count, block.heads, every)
    weights = f.softmax(weights)
    if near.shape[-1] == SIDES:
        near = f.view(near, batch, count, 1, 1, SIDES)
        where = _scaled(t, block, offsets, x.dtype)
        where = f.scale(f.mul(where, f.narrow(near, -1, 2)))
        _offset = where if block.scales else None  # a name there
        where = f.add(f.narrow(near, -1, 2), where)
    else:
        near = f.view(near, batch, count, 1, block.levels, 1, 2)
        normalizer = t.new((block.levels, 1, 2), "int64")
        offsets = f.view(offsets, batch, count, block.heads, block.levels, block.points, 2)
        where = f.add(near, f.div(offsets, normalizer))
    look = _in_one_row if block.scales else _apart
    out = look(block, value, around.scene.sizes, where, weights)
    return run(t, block.out, out, around)


def _scaled(t: Tape, block: Deformable, offsets: Value, dtype: str) -> Value:
    """Divided by the number of points, or times the factor of each."""
    if block.scales is None:
        return f.scale(offsets)
    factors = f.to(t.weight(block.scales.name, (block.levels * block.points,)), dtype)
    return f.mul(offsets, f.unsqueeze(factors, -1))


def _apart(block: Deformable, value: Value, sizes: Sequence[Shape], where: Value, weights: Value) -> Value:
    """MultiScaleDeformableAttention.forward."""
    batch, _, count, channels = value.shape
    queries, each = where.shape[1], count * batch
    values = f.split(value, [rows * columns for rows, columns in sizes], 1)
    grids = f.shift(f.scale(where))
    grids = f.view(grids, batch, queries, count, block.levels, block.points, 2)
    found = []
    for one, (rows, columns) in zip(values, sizes, strict=True):
        seen = f.transpose(f.reshape(one, *one.shape[:2], -1), 1, 2)
        seen = f.reshape(seen, each, channels, rows, columns)
        grid = f.reshape(f.transpose(f.select(grids, 3), 1, 2), each, queries, block.points, 2)
        found.append(maps.grid_sample(seen, grid, (each, channels, queries, block.points)))
    weights = f.reshape(f.transpose(weights, 1, 2), each, 1, queries, -1)
    return _summed(f.mul(_side_by_side(found), weights), batch)


def _side_by_side(found: list[Value]) -> Value:
    """torch.stack(found, dim=-2).flatten(-2)."""
    sampled = f.stack(found, 3)
    return f.reshape(sampled, *sampled.shape[:3], -1)


def _in_one_row(block: Deformable, value: Value, sizes: Sequence[Shape], where: Value, weights: Value) -> Value:
    """multi_scale_deformable_attention_v2."""
    batch, tokens, count, channels = value.shape
    queries, each = where.shape[1], count * batch
    values = f.reshape(f.permute(value, 0, 2, 3, 1), each, channels, tokens)
    parts = f.split(values, [rows * columns for rows, columns in sizes])
    grids = f.shift(f.scale(where))
    grids = f.reshape(f.permute(grids, 0, 2, 1, 3, 4), each, queries, -1, 2)
    near = f.split(grids, [block.points] * block.levels, -2)
    found = []
    for part, grid, (rows, columns) in zip(parts, near, sizes, strict=True):
        seen = f.reshape(part, each, channels, rows, columns)
        found.append(maps.grid_sample(seen, grid, (each, channels, queries, block.points)))
    weights = f.reshape(f.permute(weights, 0, 2, 1, 3), each, 1, queries, -1)
    return _summed(f.mul(f.cat(found), weights), batch)


def _summed(weighed: Value, batch: int) -> Value:
    """The sum over the points: [batch, queries, width]."""
    out = f.total(weighed, -1)
    del weighed
    return f.contiguous(f.transpose(f.view(out, batch, -1, out.shape[-1]), 1, 2))
