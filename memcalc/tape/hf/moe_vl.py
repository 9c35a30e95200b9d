"""Towers in front of mixtures of experts: Kimi K2.5's and Step 3.7's (modeling_kimi_k25.py, modeling_step3p7.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.towers import GatheredPositions, MeanOfFrames, SquareMap, SquareRotary, WholeTable
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attend, flash, project
from memcalc.tape.hf.pictures import apart, turned
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(GatheredPositions)
def gathered_positions(t: Tape, block: GatheredPositions, x: Value, around: Around) -> Value:
    """Kimi_K25VisionPositionEmbeddings.forward: a weighed sum of rows, plus a fixed row of the frame's, in fp32."""
    patches, (rows, columns, width) = x.shape[0], block.shape
    table = f.reshape(t.weight("", block.shape), rows * columns, width)
    where, factors = t.new((patches, 16), "int64"), t.new((patches, 16), "fp32")
    places = f.embedding_bag(where, table, f.to(factors, table.dtype))
    fixed = t.new((patches, width), "fp32")
    places = f.add(places, fixed)
    del fixed
    return f.add(x, f.to(places, x.dtype))


@rule(MeanOfFrames)
def mean_of_frames(t: Tape, block: MeanOfFrames, x: Value, around: Around) -> Value:
    """Kimi_K25VisionModel.forward behind its layers: of an image there is one frame."""
    t.held.append(x)
    near = block.merge**2
    where = t.new((x.shape[0] // near, 1, near), "int64")
    return f.mean(f.index(x, where, (*where.shape, x.shape[-1])), 1, keep=False)


@rule(Attention, "kimi-vision")
def kimi_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Kimi_K25VisionAttention.forward: every image attends to itself alone."""
    q, k, v = (
        f.reshape(run(t, part, x, around), 1, x.shape[0], -1, block.head_dim) for part in (block.q, block.k, block.v)
    )
    q, k = turned(q, k, around)
    q, k, v = (f.transpose(part, 2, 1) for part in (q, k, v))
    out = flash(t, q, k, v) if t.setting.attention == "flash" else f.cat(apart(t, block, (q, k, v), around), 1)
    return run(t, block.out, f.contiguous(f.reshape(out, x.shape[0], -1)), around)


@rule(WholeTable)
def whole_table(t: Tape, block: WholeTable, x: Value, around: Around) -> Value:
    """Step3p7VisionEmbeddings.forward, where the image has the table's size."""
    return f.add(x, f.unsqueeze(t.weight("weight", (block.rows, block.width)), 0))


@rule(SquareRotary)
def square_rotary(t: Tape, block: SquareRotary, x: Value, around: Around) -> Value:
    """Step3p7VisionRotaryEmbedding.forward."""
    patches, quarter = x.shape[1], block.dim // 4
    around.named.append(t.new((patches, 2), "int64"))
    frequencies = t.given((quarter,), "fp32"), t.given((quarter,), "fp32")  # inv_freq and the original
    with t.no_grad():
        angles = f.mul(t.new((patches, 2, 1), "fp32"), f.reshape(frequencies[0], 1, 1, quarter))
        halves = [f.reshape(f.scale(f.scale(angles)), patches, -1) for _ in range(2)]
        cos, sin = (f.cat([f.cat((half,))] * 2) for half in halves)
        around.rotary = cos, sin
    return x


@rule(SquareMap)
def square_map(_: Tape, block: SquareMap, x: Value, around: Around) -> Value:
    """x.permute(0, 2, 1).view(…)."""
    return f.reshape(f.permute(x, 0, 2, 1), x.shape[0], x.shape[2], block.side, -1)


@rule(Attention, "step-vision")
def step_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Step3p7VisionAttention.forward."""
    b, s = x.shape[:2]
    q, k, v = (f.view(run(t, part, x, around), b, s, -1, block.head_dim) for part in (block.q, block.k, block.v))
    v = f.transpose(v, 1, 2)
    q, k = turned(q, k, around)
    q, k = f.transpose(q, 1, 2), f.transpose(k, 1, 2)
    return project(t, block, attend(t, block, q, k, v, around), around)
