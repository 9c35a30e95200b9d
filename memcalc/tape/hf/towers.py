"""Towers within models of images and text: Llama 4's, SigLIP 2's (modeling_llama4.py, modeling_siglip2.py)."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, cast

from memcalc.blocks.attention import Attention
from memcalc.blocks.towers import (
    AxesRotary,
    AxesTable,
    ComplexRotary,
    EachGrid,
    EachImage,
    FilledRows,
    FilledSquares,
    ShrunkGrid,
    Squares,
    Unfilled,
    UnfoldedPatches,
    WithoutLast,
)
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.hf.attention import attend, flash, project
from memcalc.tape.hf.basic import asking
from memcalc.tape.hf.latent import complex_rotated
from memcalc.tape.hf.masks import filled_mask
from memcalc.tape.hf.pictures import apart
from memcalc.tape.hf.rotary import rotate_half
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.basic import Embedding
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(UnfoldedPatches)
def unfolded_patches(t: Tape, block: UnfoldedPatches, x: Value, around: Around) -> Value:
    """Llama4UnfoldConvolution.forward: [images, patches, width]."""
    images, channels, rows, columns = x.shape
    patch = block.patch
    x = maps.unfold(x, (images, channels * patch**2, (rows // patch) * (columns // patch)))
    x = f.permute(x, 0, 2, 1)
    for part in block.blocks:
        x = run(t, part, x, around)
    return asking(t, x) if t.weights.adapters else x


@rule(ComplexRotary)
def complex_rotary(t: Tape, block: ComplexRotary, x: Value, around: Around) -> Value:
    """Llama4VisionRotaryEmbedding.forward: a buffer, of two fp32 numbers each."""
    table = t.given((1, x.shape[1], block.dim), "fp32", ".freqs_ci")
    around.rotary = table, table
    return x


@rule(WithoutLast)
def without_last(_: Tape, __: WithoutLast, x: Value, around: Around) -> Value:
    """hidden_state[:, :-1, :]."""
    return f.narrow(x, 1, x.shape[1] - 1)


@rule(Attention, "llama4-vision")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Llama4VisionAttention.forward: rotated before the heads are transposed."""
    b, s = x.shape[:2]
    q, k, v = (f.view(run(t, part, x, around), b, s, -1, block.head_dim) for part in (block.q, block.k, block.v))
    assert around.rotary  # noqa: S101 - ComplexRotary has made it
    q, k = complex_rotated(q, k, around.rotary, 2)
    q, k, v = (f.transpose(part, 1, 2) for part in (q, k, v))
    return project(t, block, attend(t, block, q, k, v, around), around)


@rule(FilledRows)
def filled_rows(t: Tape, block: FilledRows, x: Value, around: Around) -> Value:
    """Siglip2VisionEmbeddings.forward, and the mask of what fills up, which is made behind it."""
    linear, table = block.blocks
    images, patches = x.shape[:2]
    x = run(t, linear, f.to(x, t.setting.weights), around)
    with inside(t, table):
        places = _stretched(t, cast("Embedding", table), images, patches)
    x = f.add(x, places)
    around.masks, around.ready = {0: filled_mask(t, images, patches, x.dtype)}, True
    around.named.append(x)
    return asking(t, x) if t.weights.adapters else x


def _stretched(t: Tape, table: Embedding, images: int, patches: int) -> Value:
    """resize_positional_embeddings: of each image by itself, its first row also where it is filled up."""
    side, width = isqrt(table.rows), table.width
    weight = f.reshape(t.weight("weight", (table.rows, width)), side, side, width)
    out = t.new((images, patches, width), weight.dtype)
    picture = f.unsqueeze(f.permute(weight, 2, 0, 1), 0)
    for _ in range(images):
        one = maps.interpolate(picture, (1, patches))
        one = f.to(f.transpose(f.reshape(one, width, patches), 0, 1), weight.dtype)
        out = f.assign(out, one)
    return out


@rule(EachImage)
def each_image(t: Tape, block: EachImage, x: Value, around: Around) -> Value:
    """Lfm2VlModel.get_image_features: a list of what comes of every image, and the copy that puts it together."""
    found = []
    for _ in range(x.shape[0]):
        one = f.unsqueeze(f.select(x, 0), 0)
        for part in block.blocks:
            one = run(t, part, one, around)
        found.append(f.reshape(one, -1, one.shape[-1]))
    t.held += found
    return f.cat(found, 0)


@rule(EachGrid)
def each_grid(t: Tape, block: EachGrid, x: Value, around: Around) -> Value:
    """PaddleOCRProjector.forward: a list of what comes of every image, and the copy that puts it together."""
    assert around.grid  # noqa: S101 - a tower of this kind is given one
    count, found = around.grid[0], []
    for part in f.split(x, (x.shape[0] // count,) * count, 0):
        one = part
        for inner in block.blocks:
            one = run(t, inner, one, around)
        found.append(one)
    return f.cat(found, 0)


@rule(Squares)
def squares(_: Tape, block: Squares, x: Value, around: Around) -> Value:
    """PaddleOCRProjector.forward, of one image."""
    assert around.grid  # noqa: S101 - as above
    (frames, rows, columns), merge, width = around.grid[1:], block.merge, x.shape[-1]
    x = f.reshape(x, frames, rows // merge, merge, columns // merge, merge, width)
    return f.reshape(f.transpose(x, 2, 3), -1, merge**2 * width)


@rule(FilledSquares)
def filled_squares(_: Tape, block: FilledSquares, x: Value, around: Around) -> Value:
    """Ovis2VisionModel.forward: zeros behind the tokens, a copy also where there are none, as many more as a side lacks."""
    images, tokens, width = x.shape
    side, stride = isqrt(tokens), block.stride
    whole = -(-side // stride) * stride
    x = f.clone(x) if whole == side else f.pad(x, 1, whole**2 - tokens)
    x = f.reshape(x, images, whole // stride, stride, whole // stride, stride, width)
    return f.reshape(f.permute(x, 0, 1, 3, 2, 4, 5), images, -1, stride**2 * width)


@rule(ShrunkGrid)
def shrunk_grid(_: Tape, block: ShrunkGrid, x: Value, around: Around) -> Value:
    """VideoLlama3VisionModel.pixel_unshuffle, of images, none of whose patches are merged."""
    assert around.grid  # noqa: S101 - as above
    (count, frames, rows, columns), width, found = around.grid, x.shape[-1], []
    for one in f.split(x, (x.shape[0] // count,) * count, 0):
        picture = f.permute(f.view(one, frames, rows, columns, width), 0, 3, 1, 2)
        picture = maps.interpolate(picture, (rows, columns))
        found.append(f.reshape(f.permute(picture, 0, 2, 3, 1), -1, width))
    return f.cat(found, 0)


@rule(AxesTable)
def axes_table(t: Tape, block: AxesTable, x: Value, around: Around) -> Value:
    """Gemma4UnifiedVisionEmbedder.forward: both axes' rows of every patch, times whether it is there, summed."""
    (_rows, axes, width), (images, patches) = block.shape, x.shape[:2]
    table = t.weight("", block.shape)
    where, there = t.new((images, patches, axes), "int64"), t.new((images, patches, axes, 1), table.dtype)
    found = f.index(table, where, (images, patches, axes, width))
    places = f.total(f.mul(found, there), -2)
    x = f.add(x, places)
    del where, there, found
    return x


@rule(Unfilled)
def unfilled(t: Tape, _: Unfilled, x: Value, around: Around) -> Value:
    """Gemma4UnifiedModel.get_image_features: pooler_output[non_pad_mask]."""
    count = x.shape[0] * x.shape[1]
    return f.index(x, t.new((count, 2), "int64"), (count, x.shape[2]))


@rule(AxesRotary)
def axes_rotary(t: Tape, block: AxesRotary, x: Value, around: Around) -> Value:
    """MiniMaxM3VLVisionRotaryEmbedding.forward: tables [patches, 6 * (dim // 6)], cast to the dtype of the patches."""
    patches, sixth = x.shape[0], block.dim // 6
    around.named.append(t.new((patches, 3), "int64"))
    with t.no_grad():
        angles = f.mul(t.new((patches, 3, 1), "fp32"), t.given((1, 1, sixth), "fp32", ".inv_freq"))
        halves = [f.reshape(f.scale(f.scale(angles)), patches, 3 * sixth) for _ in range(2)]
        cos, sin = (f.cat([half] * 2) for half in halves)
        around.rotary = f.to(cos, x.dtype), f.to(sin, x.dtype)
    return x


@rule(Attention, "minimax-vision")
def minimax_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """MiniMaxM3VLVisionAttention.forward: rotated without a cast, joined by a copy to the channels that are not."""
    patches = x.shape[0]
    q, k, v = (f.reshape(run(t, part, x, around), patches, block.heads, -1) for part in (block.q, block.k, block.v))
    assert around.rotary and around.grid  # noqa: S101, PT018 - its tower has made them
    q, k = _partly_turned(q, k, around.rotary)
    q, k, v = (f.unsqueeze(f.transpose(part, 0, 1), 0) for part in (q, k, v))
    out = flash(t, q, k, v) if t.setting.attention == "flash" else f.cat(apart(t, block, (q, k, v), around), 1)
    return run(t, block.out, f.contiguous(f.reshape(out, patches, -1)), around)


def _partly_turned(q: Value, k: Value, tables: tuple[Value, Value]) -> tuple[Value, Value]:
    """apply_rotary_pos_emb_vision (modeling_minimax_m3_vl.py)."""
    cos, sin = (f.unsqueeze(table, 1) for table in tables)
    width, rest = cos.shape[-1], q.shape[-1] - cos.shape[-1]
    (q_rot, q_pass), (k_rot, k_pass) = f.split(q, (width, rest)), f.split(k, (width, rest))
    q_rot = f.add(f.mul(q_rot, cos), f.mul(rotate_half(q_rot), sin))
    k_rot = f.add(f.mul(k_rot, cos), f.mul(rotate_half(k_rot), sin))
    return f.cat((q_rot, q_pass)), f.cat((k_rot, k_pass))
