"""Conditional DETR: content and place of each query apart, points that they look near (modeling_conditional_detr.py)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from memcalc.blocks.attention import Attention
from memcalc.blocks.detection import ConditionalDecoder
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attend, heads, project
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Stack
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(ConditionalDecoder)
def conditional_decoder(t: Tape, block: ConditionalDecoder, x: Value, around: Around) -> Value:
    """ConditionalDetrDecoder.forward."""
    asked, _ = cast("tuple[Value, Value]", around.rotary)
    points = f.sigmoid(run(t, block.points, asked, Around()))
    t.outputs.append(points)
    waves = f.cat([wave(points, asked.shape[-1] // 2) for _ in range(2)])
    around.original = f.scale(waves)
    layers = cast("Stack", block.layers)
    for index in range(len(layers.layers) - 1):
        around.after[index] = partial(_scaled, t, block, around, waves, (t.path, "/0"))
    x = run(t, layers, x, around)
    around.after.clear()  # which hold on to what holds them
    return x


def wave(points: Value, width: int) -> Value:
    """encode_sinusoidal_position_embedding of one coordinate [batch, queries, 1]: sines and cosines of `width` channels."""
    place = f.scale(f.unsqueeze(f.select(points, 2), 2))
    wide = f.mul(f.to(place, "fp32"), points.tape.new((width,), "fp32"))
    parts = f.sine(f.narrow(wide, -1, width // 2)), f.cosine(f.narrow(wide, -1, width // 2))
    return f.to(f.reshape(f.stack(parts, -1), *wide.shape), points.dtype)


def _scaled(
    t: Tape, block: ConditionalDecoder, around: Around, waves: Value, place: tuple[str, str], x: Value
) -> Value:
    before, (t.path, t.instance) = (t.path, t.instance), place
    around.original = f.mul(waves, run(t, block.scale, x, Around()))
    t.path, t.instance = before
    return x


@rule(Attention, "conditional-self")
def among_queries(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """ConditionalDetrDecoderSelfAttention.forward."""
    asked, _ = cast("tuple[Value, Value]", around.rotary)
    q_place, k_place = block.before
    q = heads(f.add(run(t, block.q, x, around), run(t, q_place, asked, around)), block.heads)
    k = heads(f.add(run(t, block.k, x, around), run(t, k_place, asked, around)), block.heads)
    v = heads(run(t, block.v, x, around), block.heads)
    return project(t, block, attend(t, block, q, k, v, around), around)


@rule(Attention, "conditional-cross")
def near_points(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """ConditionalDetrDecoderCrossAttention.forward: heads twice as wide, of content and of place."""
    asked, places = cast("tuple[Value, Value]", around.rotary)
    states, waves = cast("Value", around.encoder), cast("Value", around.original)
    k_place, q_wave, *q_place = block.before
    q, k, v = run(t, block.q, x, around), run(t, block.k, states, around), run(t, block.v, states, around)
    where = run(t, k_place, places, around)
    for part in q_place:
        q, k = f.add(q, run(t, part, asked, around)), f.add(k, where)
    near = _by_head(run(t, q_wave, waves, around), block.heads)
    q = f.transpose(f.cat((_by_head(q, block.heads), near)), 1, 2)
    k = f.transpose(f.cat((_by_head(k, block.heads), _by_head(where, block.heads))), 1, 2)
    out = attend(t, block, q, k, f.transpose(_by_head(v, block.heads), 1, 2), around)
    return project(t, block, out, around)


def _by_head(x: Value, count: int) -> Value:
    return f.view(x, *x.shape[:-1], count, x.shape[-1] // count)
