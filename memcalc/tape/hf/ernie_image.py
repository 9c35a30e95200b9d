"""ERNIE-Image: tokens on the first axis, vectors as large as the row, sums in fp32 (transformer_ernie_image.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.diffusion import ModulatedBlock
from memcalc.blocks.leading import LeadingEnd, LeadingRow
from memcalc.blocks.mlp import Mlp
from memcalc.tape import functions as f
from memcalc.tape.hf.dit import at_once, by_head, norm, normed, text, through
from memcalc.tape.rules import Around, gone, inside, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(LeadingRow)
def leading_row(t: Tape, block: LeadingRow, x: Value, around: Around) -> Value:
    """ErnieImageTransformer2DModel.forward from its embeddings to its layers, whose names last to its end."""
    scene, names, batch, size = around.scene, around.named, x.shape[0], x.shape[1]
    x = f.contiguous(f.transpose(x, 0, 1))
    names += x, text(around), f.contiguous(f.transpose(text(around), 0, 1))
    around.encoder = None
    row = f.cat((x, names[-1]), 0)
    tokens, length = row.shape[0], names[-1].shape[0]
    names += (t.new((batch, length, 3), "fp32"), t.new((size, 2), "fp32"), t.new((batch, size, 3), "fp32"))
    ids = t.new((batch, tokens, 3), "fp32")
    axes = t.new((batch, tokens, block.head_dim // 2), "fp32")
    table = f.reshape(f.stack((f.unsqueeze(axes, 2),) * 2, -1), batch, tokens, 1, block.head_dim)
    del ids, axes
    names.append(t.new((batch, length), "bool"))
    around.seen = table, t.new((batch, 1, 1, tokens), "bool"), table
    parts = f.chunk(scene.shared, 6)
    scene.pieces = [f.contiguous(f.expand(f.unsqueeze(part, 0), tokens, -1, -1)) for part in parts]
    scene.image, scene.shared, parts = size, None, ()
    scene.made.clear()
    return row


@rule(LeadingEnd)
def leading_end(t: Tape, block: LeadingEnd, x: Value, around: Around) -> Value:
    """ErnieImageAdaLNContinuous.forward, and the way back to a map."""
    assert block.modulation and block.out  # noqa: S101, PT018 - it has both
    scene, (rows, columns) = around.scene, around.scene.sizes.pop()
    with inside(t, block.modulation):
        made = run(t, block.modulation.linear, scene.vector, around)  # type: ignore[attr-defined]  # a Modulation
    scale, shift = (f.unsqueeze(part, 0) for part in f.chunk(made, 2))
    y = f.to(at_once(norm(x), scale, shift), x.dtype)
    out = f.contiguous(f.transpose(f.narrow(run(t, block.out, y, around), 0, scene.image), 0, 1))
    del y
    around.named.append(out)
    out = f.reshape(out, out.shape[0], rows, columns, block.patch, block.patch, -1)
    out = f.contiguous(f.permute(out, 0, 5, 1, 3, 2, 4))
    return f.reshape(out, *out.shape[:2], rows * block.patch, columns * block.patch)


@rule(ModulatedBlock, "ernie-image")
def layer(t: Tape, block: ModulatedBlock, x: Value, around: Around) -> Value:
    """ErnieImageSharedAdaLNBlock.forward."""
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = around.scene.pieces
    first, second = block.norms
    y = wide_modulated(run(t, first, x, around), scale, shift)
    read = f.transpose(y, 0, 1)
    attended = f.transpose(run(t, block.mixer, read, around), 0, 1)
    gate = f.to(gate, "fp32")
    x = f.add(x, f.to(f.mul(gate, f.to(attended, "fp32")), y.dtype))
    del gate
    y = wide_modulated(run(t, second, x, around), scale_mlp, shift_mlp)
    gate = f.to(gate_mlp, "fp32")
    fed = f.mul(gate, f.to(through(t, block.feed, y, around), "fp32"))
    del gate
    out = f.add(x, f.to(fed, y.dtype))
    del attended, read, y
    return out


def wide_modulated(x: Value, scale: Value, shift: Value) -> Value:
    """(x.float() * (1 + scale.float()) + shift.float()).to(x.dtype)."""
    made = f.mul(f.to(x, "fp32"), f.shift(f.to(scale, "fp32")))
    return f.to(f.add(made, f.to(shift, "fp32")), x.dtype)


@rule(Attention, "ernie-image")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """ErnieImageSingleStreamAttnProcessor.__call__."""
    assert around.seen  # noqa: S101 - its model has made the table and the mask
    table, mask, _ = around.seen
    own = [run(t, part, x, around) for part in (block.q, block.k, block.v) if part]
    own = normed(t, [by_head(part, block.heads) for part in own], (block.q_norm, block.k_norm), around)
    for i in range(2):
        own[i] = turned(own[i], table)
    q, k, v = (f.transpose(part, 1, 2) for part in own)
    out = f.transpose(f.attention(q, k, v, mask), 1, 2)
    out = f.to(f.reshape(out, *out.shape[:2], -1), q.dtype)
    return run(t, block.out, out, around)


def turned(x: Value, table: Value) -> Value:
    """apply_rotary_emb of all channels: what is left of them is put behind, be it nothing."""
    cos, sin = (f.to(part(table), x.dtype) for part in (f.cosine, f.sine))
    first, second = f.chunk(x, 2)
    halves = f.cat((f.neg(second), first))
    out = f.add(f.mul(x, cos), f.mul(halves, sin))
    made = f.cat((out, f.narrow(x, -1, 0)))
    names = [cos, sin, halves]
    del cos, sin, halves, out
    gone(names)
    return made


@rule(Mlp, "ernie-image")
def feed_forward(t: Tape, block: Mlp, x: Value, around: Around) -> Value:
    """ErnieImageFeedForward.forward: linear_fc2(up_proj(x) * gelu(gate_proj(x)))."""
    up = run(t, block.up, x, around)
    return run(t, block.down, f.mul(up, f.gelu(run(t, block.gate, x, around))), around)
