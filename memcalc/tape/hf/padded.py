"""Gemma 4's image tower: rows of pixels that are filled up, tables by x and by y, a mask of what fills up (modeling_gemma4.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.padded import AxialRotary, Clipped, PaddedRows, PooledRows
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attend, project
from memcalc.tape.hf.masks import filled_mask
from memcalc.tape.hf.rotary import rotate_half
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(PaddedRows)
def padded_rows(t: Tape, block: PaddedRows, x: Value, around: Around) -> Value:
    """Gemma4VisionPatchEmbedder.forward."""
    images, patches = x.shape[:2]
    t.given((images, patches, 2), "int64", ".pixel_position_ids")
    filled = t.new((images, patches), "bool")
    x = f.to(f.scale(f.shift(x)), t.setting.weights)
    for part in block.blocks:
        x = run(t, part, x, around)
    where = t.new((images, patches, 2), "int64")
    table = t.weight("position_embedding_table", (2, block.rows, block.width))
    by_x = f.embedding(f.select(where, 2), f.select(table, 0))
    by_y = f.embedding(f.select(where, 2), f.select(table, 0))
    places = f.add(by_x, by_y)
    places = f.where(f.unsqueeze(filled, -1), t.new((), x.dtype), places)
    out = f.add(x, places)
    around.named += filled, out
    return out


@rule(AxialRotary)
def axial_rotary(t: Tape, block: AxialRotary, x: Value, around: Around) -> Value:
    """Gemma4VisionEncoder.forward before its layers: a mask of the patches that fill up, and the tables."""
    images, patches = x.shape[:2]
    quarter = block.dim // 4
    seen = t.new((images, patches), "bool")
    around.named.append(seen)
    around.masks = {0: filled_mask(t, images, patches, x.dtype)}
    around.ready = True
    frequencies = t.given((quarter,), "fp32"), t.given((quarter,), "fp32")  # inv_freq and the original
    with t.no_grad():
        wide = t.new((images, patches, 2, 1), "fp32")
        angles = f.mul(wide, f.reshape(frequencies[0], 1, 1, 1, quarter))
        del wide
        cos, sin = f.scale(f.scale(angles)), f.scale(f.scale(angles))
        cos, sin = (f.cat([f.select(table, 2)] * 4) for table in (cos, sin))
        around.rotary = f.to(cos, x.dtype), f.to(sin, x.dtype)
    return x


@rule(Attention, "gemma4-vision")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Gemma4VisionAttention.forward."""
    b, s = x.shape[:2]
    q = f.view(run(t, block.q, x, around), b, s, -1, block.head_dim)
    q = f.transpose(_turned(run(t, block.q_norm, q, around), around), 1, 2)
    k = f.view(run(t, block.k, x, around), b, s, -1, block.head_dim)
    k = f.transpose(_turned(run(t, block.k_norm, k, around), around), 1, 2)
    v = f.view(run(t, block.v, x, around), b, s, -1, block.head_dim)
    v = f.transpose(run(t, block.v_norm, v, around), 1, 2)
    return project(t, block, attend(t, block, q, k, v, around), around)


def _turned(x: Value, around: Around) -> Value:
    """apply_multidimensional_rope: half of the channels by x, half by y, joined by a copy."""
    assert around.rotary  # noqa: S101 - AxialRotary has made them
    cos, sin = (f.chunk(table, 2) for table in around.rotary)
    halves = []
    for half, one, other in zip(f.chunk(x, 2), cos, sin, strict=True):
        one, other = f.unsqueeze(one, 2), f.unsqueeze(other, 2)  # noqa: PLW2901 - the function's own names
        halves.append(f.add(f.mul(half, one), f.mul(rotate_half(half), other)))
    return f.cat(halves)


@rule(PooledRows)
def pooled_rows(t: Tape, block: PooledRows, x: Value, around: Around) -> Value:
    """Gemma4VisionPooler.forward, and what Gemma4VisionModel.forward does behind it: [tokens, width]."""
    images, patches, dtype = x.shape[0], x.shape[1], x.dtype
    around.masks = {}  # the layers' own
    tokens = patches // block.kernel**2
    x = f.masked_fill(x, t.new((images, patches, 1), "bool"))
    chosen = t.new((images, patches, tokens), "int64")
    wide = t.new(chosen.shape, "fp32")
    del chosen
    weights = f.scale(wide)
    del wide
    x = f.to(f.matmul(f.transpose(weights, 1, 2), f.to(x, "fp32")), dtype)
    del weights
    x = f.scale(f.to(x, "fp32"))
    x = f.index(f.reshape(x, -1, x.shape[-1]), t.new((images * tokens, 2), "int64"), (images * tokens, x.shape[-1]))
    for name in ("std_bias", "std_scale") if block.standardized else ():
        bound = f.to(t.weight(name, (block.width,)), "fp32")
        x = f.subtract(x, bound) if name == "std_bias" else f.mul(x, bound)
    return f.to(x, dtype)


@rule(Clipped)
def clipped(t: Tape, block: Clipped, x: Value, around: Around) -> Value:
    """Gemma4ClippableLinear.forward."""
    x = f.clamp(x)
    for part in block.blocks:
        x = run(t, part, x, around)
    return f.clamp(x)
