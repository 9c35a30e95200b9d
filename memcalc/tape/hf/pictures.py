"""Towers for images of any size, whose patches lie in one row: Qwen2-VL's and kin (modeling_qwen2_5_vl.py, vision_utils.py)."""

from __future__ import annotations

from functools import partial
from math import isqrt, prod
from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.image import PatchRotary
from memcalc.blocks.multimodal import (
    ConvTokens,
    DeepStack,
    GridOrder,
    GridPositions,
    GridRotary,
    MergedSquares,
    PatchRow,
    RowMask,
    SampledPositions,
    Unfolded,
)
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.hf.attention import attend, eager, flash, project, separate
from memcalc.tape.hf.rotary import rotate_half
from memcalc.tape.rules import Around, rule, run
from memcalc.tensors import numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.blocks.base import Block
    from memcalc.blocks.basic import Conv
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


SINGLY = 64  # windows that are followed one by one; of more, those of a size are taken together, their scores too


@rule(ConvTokens)
def conv_tokens(t: Tape, block: ConvTokens, x: Value, around: Around) -> Value:
    """Qwen2_5_VisionPatchEmbed.forward: every row of pixels a picture of one patch; [patches, width]."""
    conv: Conv = block.conv  # type: ignore[assignment]  # it has one
    out = run(t, conv, f.view(x, -1, conv.inputs, *conv.kernel), around)
    return f.view(out, -1, conv.outputs)


@rule(GridPositions)
def stretched(t: Tape, block: GridPositions, x: Value, around: Around) -> Value:
    """Four neighbours in the table for each patch, weighed in fp32 and summed (Qwen3VLVisionModel.forward)."""
    where, weights = t.new((x.shape[0], 4), "int64"), t.new((x.shape[0], 4), "fp32")
    rows = t.weight("weight", (block.rows, block.width))
    places = f.total(f.mul(f.embedding(where, rows), f.unsqueeze(weights, 2)), 1)
    around.named += where, weights, places
    return f.add(x, f.to(places, x.dtype))


@rule(SampledPositions)
def sampled_positions(t: Tape, block: SampledPositions, x: Value, around: Around) -> Value:
    """Glm4vVisionEmbeddings.forward: the table as a picture in fp32, sampled at every patch, cast back."""
    patches, width, side = x.shape[0], block.width, isqrt(block.rows)
    table = t.weight("weight", (block.rows, width))
    whole = f.to(f.unsqueeze(f.permute(f.view(table, side, side, width), 2, 0, 1), 0), "fp32")
    _names = [t.new((patches,), dtype) for dtype in ("int64", "int64", "fp32", "fp32", "fp32", "fp32")]
    grid = t.new((1, patches, 1, 2), "fp32")
    sampled = maps.grid_sample(whole, grid, (1, width, patches, 1))
    places = f.to(f.permute(f.squeeze(f.squeeze(sampled, 0), -1), 1, 0), table.dtype)
    return f.add(x, places)


@rule(MergedSquares)
def merged_squares(t: Tape, block: MergedSquares, x: Value, around: Around) -> Value:
    """Glm4vVisionModel.forward behind its layers; what comes of it is a part of the tower's output."""
    x = f.permute(f.view(x, -1, block.merge, block.merge, x.shape[-1]), 0, 3, 1, 2)
    x = run(t, block.conv, x, around)
    x = f.view(x, -1, x.shape[1])
    t.held.append(x)
    return x


@rule(GridRotary)
def grid_rotary(t: Tape, block: GridRotary, x: Value, around: Around) -> Value:
    """Qwen2_5_VLVisionRotaryEmbedding.forward: tables [patches, channels] in fp32, of rows and of columns, twice."""
    patches, quarter = x.elements // x.shape[-1], block.dim // 4
    around.named.append(t.new((patches, 2), "int64"))
    frequencies = t.given((quarter,), "fp32"), t.given((quarter,), "fp32")  # inv_freq and the original
    with t.no_grad():
        angles = f.mul(t.new((patches, 2, 1), "fp32"), f.reshape(frequencies[0], 1, 1, quarter))
        halves = [f.reshape(f.scale(f.scale(angles)), patches, -1) for _ in range(2)]
        cos, sin = (f.cat([f.cat((half,))] * 2) for half in halves)
        around.rotary = (
            (cos, sin) if block.wide else (f.to(f.unsqueeze(cos, 0), x.dtype), f.to(f.unsqueeze(sin, 0), x.dtype))
        )
    return x


@rule(GridOrder)
def grid_order(t: Tape, block: GridOrder, x: Value, around: Around) -> Value:
    """permute_input_for_window_attn: tokens and tables in the order of windows; what was merged, back again."""
    if block.back:
        return f.index(x, t.new(x.shape[:1], "int64"), x.shape)
    order = t.new((x.shape[0] // block.merge**2,), "int64")
    around.named.append(order)
    tables = [_ordered(table, order) for table in around.rotary or ()]
    around.rotary = tables[0], tables[1]
    return _ordered(x, order)


def _ordered(x: Value, order: Value) -> Value:
    shape = (order.shape[0], x.shape[0] // order.shape[0], x.shape[-1])
    return f.reshape(f.index(f.reshape(x, *shape), order, shape), *x.shape)


@rule(PatchRow)
def patch_row(t: Tape, block: PatchRow, x: Value, around: Around) -> Value:
    """PixtralVisionModel.forward: [1, patches, width]; what the convolution put out is named to its end."""
    around.named.append(x)
    parts = [f.transpose(f.reshape(part, part.shape[0], -1), 0, 1) for part in f.unbind(x, 0)]
    return f.unsqueeze(f.cat(parts, 0), 0)


@rule(RowMask)
def row_mask(t: Tape, block: RowMask, x: Value, around: Around) -> Value:
    """generate_block_attention_mask, for other attentions than flash."""
    if t.setting.attention != "flash":
        around.masks = {0: t.new((1, 1, x.shape[1], x.shape[1]), x.dtype)}
    return x


@rule(Unfolded)
def unfolded(_: Tape, block: Unfolded, x: Value, around: Around) -> Value:
    """Mistral3PatchMerger.forward, of each image by itself."""
    assert around.grid  # noqa: S101 - a tower of this kind is given one
    (count, _frames, rows, columns), width = around.grid, x.shape[-1]
    merged = (width * block.factor**2, rows * columns // block.factor**2)
    images = f.split(x, (rows * columns,) * count, 0)
    as_maps = (f.unsqueeze(f.permute(f.view(part, rows, columns, width), 2, 0, 1), 0) for part in images)
    parts = [f.transpose(f.reshape(maps.unfold(one, (1, *merged)), *merged), 0, 1) for one in as_maps]
    return f.cat(parts, 0)


@rule(DeepStack)
def deep_stack(t: Tape, block: DeepStack, x: Value, around: Around) -> Value:
    """Qwen3VLVisionModel.forward: some layers' outputs go through a merger of their own, too."""
    pattern = numbers(list(range(len(block.layers))))
    for number, (merger, index) in enumerate(zip(block.layers, block.at, strict=True)):
        around.after[index] = partial(_merged, t, merger, (f"{t.path}.{pattern}", f"/{number}"), around.deep)
    return x


def _merged(t: Tape, merger: Block, place: tuple[str, str], deep: list[Value], x: Value) -> Value:
    before, (t.path, t.instance) = (t.path, t.instance), place
    deep.append(run(t, merger, x, Around()))
    t.path, t.instance = before
    return x


def joined(t: Tape, deep: Value, x: Value) -> Value:
    """Qwen3VLTextModel._deepstack_process: a copy of the states, those of image tokens plus the tower's."""
    x = f.clone(x)
    where = t.new((deep.shape[0], 2), "int64")
    part = f.add(f.index(x, where, deep.shape), deep)
    return f.assign(x, part)


@rule(Attention, "qwen-vision", "exaone-vision")
def grid_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Qwen2_5_VLVisionAttention.forward: every frame, or window of it, attends to itself alone (Exaone4_5_VisionAttention)."""
    patches = x.shape[0]
    if block.formula == "exaone-vision":
        widths = [count * block.head_dim for count in (block.heads, block.kv_heads, block.kv_heads)]
        q, k, v = (
            f.reshape(part, patches, -1, block.head_dim) for part in f.split(run(t, block.qkv, x, around), widths)
        )
    elif block.q:
        q, k, v = (f.reshape(run(t, part, x, around), patches, block.heads, -1) for part in (block.q, block.k, block.v))
    else:
        qkv = f.reshape(run(t, block.qkv, x, around), patches, 3, block.heads, block.head_dim)
        q, k, v = f.unbind(f.permute(qkv, 1, 0, 2, 3), 0)
        del qkv
    q, k = run(t, block.q_norm, q, around), run(t, block.k_norm, k, around)
    q, k = turned(q, k, around)
    q, k, v = (f.unsqueeze(f.transpose(part, 0, 1), 0) for part in (q, k, v))
    out = flash(t, q, k, v) if t.setting.attention == "flash" else f.cat(apart(t, block, (q, k, v), around), 1)
    return run(t, block.out, f.contiguous(f.reshape(out, patches, -1)), around)


def turned(q: Value, k: Value, around: Around) -> tuple[Value, Value]:
    """apply_rotary_pos_emb_vision: in fp32, and cast back."""
    dtype, tables = q.dtype, around.rotary
    assert tables  # noqa: S101 - GridRotary has made them
    q, k = f.to(q, "fp32"), f.to(k, "fp32")
    cos, sin = (f.unsqueeze(table, -2) for table in tables)
    q_embed = f.add(f.mul(q, cos), f.mul(rotate_half(q), sin))
    k_embed = f.add(f.mul(k, cos), f.mul(rotate_half(k), sin))
    return f.to(q_embed, dtype), f.to(k_embed, dtype)


def apart(t: Tape, block: Attention, qkv: tuple[Value, ...], around: Around) -> list[Value]:
    """What parts of the row attend to, [1, tokens, heads, channels]: those of one length at once, or one by one eagerly."""
    parts = list(segments(block, around))
    if t.setting.attention == "eager" and sum(count for count, _ in parts) <= SINGLY:
        parts = [(1, length) for count, length in parts for _ in range(count)]
    split = [f.split(x, [count * length for count, length in parts], 2) for x in qkv]
    outs = []
    for (count, length), *chunk in zip(parts, *split, strict=True):
        q, k, v = (_side_by_side(x, count, length) for x in chunk)
        if t.setting.attention == "eager":
            out = eager(t, block, q, k, v, None, around)
        else:
            out = f.contiguous(f.transpose(f.attention(q, k, v), 1, 2))
        outs.append(f.reshape(out, 1, count * length, block.heads, block.head_dim))
    return outs


def _side_by_side(x: Value, count: int, length: int) -> Value:
    """[1, heads, count · length, channels] seen as [count, heads, length, channels]."""
    _, heads, _, channels = x.shape
    return f.transpose(f.reshape(x, heads, count, length, channels), 0, 1)


def segments(block: Attention, around: Around) -> Iterator[tuple[int, int]]:
    """(how many, tokens of each): frames, or windows of them, those at the lower and right edges smaller."""
    assert around.grid  # noqa: S101 - a tower of this kind is given one
    frames, (rows, columns) = prod(around.grid[:2]), around.grid[2:]
    side = isqrt(block.window)
    if not side:
        yield frames, rows * columns
        return
    for down, high in ((rows // side, side), (1, rows % side)):
        for across, wide in ((columns // side, side), (1, columns % side)):
            if down * across * high * wide:
                yield frames * down * across, high * wide


@rule(PatchRotary)
def patch_rotary(t: Tape, block: PatchRotary, x: Value, around: Around) -> Value:
    """DINOv3ViTRopePositionEmbedding.forward: tables [patches, channels] from centres of patches, cast to the pixels' dtype."""
    patches, quarter = x.shape[1] - block.prefix, block.dim // 4
    t.given((patches, 2), "fp32", ".centres")  # kept from step to step
    with t.no_grad():
        angles = f.mul(t.new((patches, 2, 1), "fp32"), t.given((1, 1, quarter), "fp32", ".inv_freq"))
        angles = f.reshape(angles, patches, 2 * quarter)
        angles = f.cat((angles, angles))
        around.rotary = f.to(f.scale(angles), x.dtype), f.to(f.scale(angles), x.dtype)
    return x


def behind_others(q: Value, k: Value, tables: tuple[Value, Value]) -> tuple[Value, Value]:
    """apply_rotary_pos_emb of the last tokens (modeling_dinov3_vit.py)."""
    cos, sin = tables
    sizes = q.shape[2] - cos.shape[0], cos.shape[0]
    (q_first, q_rest), (k_first, k_rest) = f.split(q, sizes, 2), f.split(k, sizes, 2)
    q_rest = f.add(f.mul(q_rest, cos), f.mul(rotate_half(q_rest), sin))
    k_rest = f.add(f.mul(k_rest, cos), f.mul(rotate_half(k_rest), sin))
    return f.cat((q_first, q_rest), 2), f.cat((k_first, k_rest), 2)


@rule(Attention, "dinov3")
def dinov3(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """DINOv3ViTAttention.forward: the class token and registers are not rotated, and joined to the patches by a copy."""
    q, k, v = separate(t, block, x, around)
    assert around.rotary  # noqa: S101 - PatchRotary has made them
    q, k = behind_others(q, k, around.rotary)
    return project(t, block, attend(t, block, q, k, v, around), around)
