"""CogVideoX: text and video modulated apart, and read in one row (diffusers, cogvideox_transformer_3d.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.basic import Conv
from memcalc.blocks.video import FramePatches, Frames, RowBlock
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import heads
from memcalc.tape.hf.dit import at_once, text, through, vectors
from memcalc.tape.hf.flux import rotated
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(FramePatches)
def frame_patches(t: Tape, block: FramePatches, x: Value, around: Around) -> Value:
    """CogVideoXPatchEmbed.forward: each frame by the convolution; text and video in one row for fixed positions, then apart."""
    cut, into = block.blocks[0], block.blocks[1]
    run(t, into, x, around)
    context = text(around)
    batch, channels, frames, rows, columns = x.shape
    around.scene.sizes.append((frames, rows // block.patch, columns // block.patch))
    if isinstance(cut, Conv):
        made = run(t, cut, f.reshape(x, batch * frames, channels, rows, columns), around)
        width = made.shape[1]
        made = f.transpose(f.reshape(made, batch, frames, width, -1), 2, 3)
        made = f.reshape(made, batch, -1, width)
    else:
        made = run(t, cut, f.clone(f.reshape(x, batch, -1, block.patch**2 * channels * block.frames)), around)
    row, length, count = f.cat((context, made), 1), context.shape[1], made.shape[1]
    if block.placed:
        table = t.given((1, block.placed, row.shape[-1]), "fp64", "pos_embedding")  # as numpy left it
        new = table if table.shape[1] == row.shape[1] else t.new((1, *row.shape[1:]), "fp64")
        row = f.add(row, f.to(new, row.dtype))
    else:
        shape = (count, block.head_dim)
        around.scene.rotary = t.given(shape, "fp32", ".cos"), t.given(shape, "fp32", ".sin")
    del made  # a local name of the patch embedding's
    row = f.dropout(row, block.dropout)
    around.encoder = f.narrow(row, 1, length)
    return f.narrow(row, 1, count)


def zero(t: Tape, block: RowBlock, which: int, x: Value, around: Around) -> tuple[Value, Value, Value, Value]:
    """CogVideoXLayerNormZero.forward: both streams normed by the same norm; their gates."""
    shift, scale, gate, text_shift, text_scale, text_gate = vectors(t, block.modulations[which], x, around)
    norm = block.norms[which]
    y = at_once(run(t, norm, x, around), scale, shift)
    z = at_once(run(t, norm, text(around), around), text_scale, text_shift)
    return y, z, gate, text_gate


@rule(RowBlock)
def row_block(t: Tape, block: RowBlock, x: Value, around: Around) -> Value:
    """CogVideoXBlock.forward."""
    context = text(around)
    length, size = context.shape[1], x.shape[1]
    y, z, gate, text_gate = zero(t, block, 0, x, around)
    around.encoder = z
    attended = run(t, block.mixer, y, around)
    text_attended, attended = f.split(attended, (length, size), 1)
    x = f.add(x, f.mul(gate, attended))
    around.encoder = context = f.add(context, f.mul(text_gate, text_attended))
    y, z, gate, text_gate = zero(t, block, 1, x, around)
    y = f.cat((z, y), 1)
    fed = f.dropout(through(t, block.feed, y, around), block.dropout)
    x = f.add(x, f.mul(gate, f.narrow(fed, 1, size)))
    around.encoder = f.add(context, f.mul(text_gate, f.narrow(fed, 1, length)))
    del y, attended, text_attended, fed, z
    return x


@rule(Attention, "cogvideox")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """CogVideoXAttnProcessor2_0: text before video; only the video's part of queries and keys is rotated, in place."""
    size = x.shape[1]
    row = f.cat((text(around), x), 1)
    made = [run(t, part, row, around) for part in (block.q, block.k, block.v)]
    q, k, v = (heads(part, block.heads) for part in made)
    made.clear()
    q = with_norm(t, block.q_norm, q, around)
    k = with_norm(t, block.k_norm, k, around)
    if around.scene.rotary:
        q, k = placed(q, size, around), placed(k, size, around)
    out = f.transpose(f.attention(q, k, v), 1, 2)
    del row  # the name is given to what comes out
    out = f.reshape(out, *out.shape[:2], -1)
    out = run(t, block.out, out, around)
    del q, k, v
    return out


def with_norm(t: Tape, norm: Block | None, x: Value, around: Around) -> Value:
    """Queries or keys through their norm, where they have one."""
    return run(t, norm, x, around) if norm else x


def placed(x: Value, size: int, around: Around) -> Value:
    """x[:, :, text:] = apply_rotary_emb(x[:, :, text:])."""
    part = f.transpose(rotated(f.transpose(f.narrow(x, 2, size), 1, 2), around.scene.rotary), 1, 2)
    return f.assign(x, part)


@rule(Frames)
def frames_again(_: Tape, block: Frames, x: Value, around: Around) -> Value:
    """Patches back to frames: a copy."""
    frames, rows, columns = around.scene.sizes.pop()
    batch, size = x.shape[0], block.patch
    x = f.reshape(x, batch, frames, rows, columns, -1, size, size)
    x = f.contiguous(f.permute(x, 0, 1, 4, 2, 5, 3, 6))
    return f.reshape(x, batch, frames, -1, rows * size, columns * size)
