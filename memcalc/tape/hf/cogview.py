"""CogView: one row of text and image for the attention (transformer_cogview3plus.py, transformer_cogview4.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.joint import HostAngles, JointBlock, PlacedRow
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import heads
from memcalc.tape.hf.dit import clipped, modulated, norm, text, through, vectors
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(HostAngles)
def host_angles(_: Tape, block: HostAngles, x: Value, around: Around) -> Value:
    """CogView4RotaryPosEmbed.forward, whose tensors name no device: here the channels of the tables that it makes."""
    around.scene.turns = block.dim
    return x


@rule(PlacedRow)
def placed_row(t: Tape, block: PlacedRow, x: Value, around: Around) -> Value:
    """CogView3PlusPatchEmbed.forward behind its projections; the model cuts the row apart and holds both parts."""
    rows, columns = around.scene.sizes[-1]
    context, width = text(around), x.shape[-1]
    length, row = context.shape[1], f.cat((context, x), 1)
    table = t.given((block.side, block.side, width), "fp32", "pos_embed")
    image = table if columns == block.side else t.new((rows * columns, width), "fp32")
    _text = t.new((length, width), "fp32")
    places = t.new((1, length + rows * columns, width), "fp32")
    row = f.to(f.add(row, places), row.dtype)
    del image, _text
    around.encoder = f.narrow(row, 1, length)
    return f.narrow(row, 1, x.shape[1])


@rule(JointBlock, "cogview3")
def early_block(t: Tape, block: JointBlock, x: Value, around: Around) -> Value:
    """CogView3PlusTransformerBlock.forward."""
    assert block.modulation and block.attention  # noqa: S101, PT018 - it has both
    context = text(around)
    length, size = context.shape[1], x.shape[1]
    made = vectors(t, block.modulation, x, around)
    own, other = made[:6], made[6:]
    del made
    y, z = norm(x), norm(context)
    y, z = modulated(y, own[1], own[0]), modulated(z, other[1], other[0])
    around.encoder = z
    row, around.encoder = run(t, block.attention, y, around), None
    context_attended, attended = f.split(row, (length, size), 1)
    del row
    x = f.add(x, f.mul(own[2], attended))
    context = f.add(context, f.mul(other[2], context_attended))
    y = modulated(norm(x), own[4], own[3])
    z = modulated(norm(context), other[4], other[3])
    y = f.cat((z, y), 1)
    fed = through(t, block.mlp, y, around)
    out = f.add(x, f.mul(own[5], f.narrow(fed, 1, size)))
    around.encoder = clipped(f.add(context, f.mul(other[5], f.narrow(fed, 1, length))))
    del y, z, attended, context_attended, fed
    return clipped(out)


@rule(JointBlock, "cogview4")
def joint_block(t: Tape, block: JointBlock, x: Value, around: Around) -> Value:
    """CogView4TransformerBlock.forward; its vectors are the image's and the text's in turn."""
    assert block.modulation and block.attention  # noqa: S101, PT018 - it has both
    before = context = text(around)  # which the model holds
    y, z = (f.to(norm(part), part.dtype) for part in (x, context))
    made = vectors(t, block.modulation, x, around)
    own, other = made[::2], made[1::2]
    del made
    y, z = modulated(y, own[1], own[0]), modulated(z, other[1], other[0])
    around.encoder = z
    row, around.encoder = run(t, block.attention, y, around), None
    context_attended, attended = f.split(row, (z.shape[1], y.shape[1]), 1)
    del row
    x = f.add(x, f.mul(attended, own[2]))
    context = f.add(context, f.mul(context_attended, other[2]))
    y = modulated(norm(x), own[4], own[3])
    z = modulated(norm(context), other[4], other[3])
    fed, context_fed = through(t, block.mlp, y, around), through(t, block.mlp, z, around)
    out = f.add(x, f.mul(fed, own[5]))
    around.encoder = f.add(context, f.mul(context_fed, other[5]))
    del y, z, attended, context_attended, fed, context_fed, before
    return out


@rule(Attention, "cogview4")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """CogView4AttnProcessor: text before image; only the image's part of queries and keys is rotated, in place."""
    size = x.shape[1]
    row = f.cat((text(around), x), 1)
    made = [run(t, part, row, around) for part in (block.q, block.k, block.v)]
    q, k, v = (heads(part, block.heads) for part in made)
    made.clear()
    q = run(t, block.q_norm, q, around)
    q = f.to(q, x.dtype)
    k = f.to(run(t, block.k_norm, k, around), x.dtype)
    q, k = placed(t, q, size, around), placed(t, k, size, around)
    out = f.transpose(f.attention(q, k, v), 1, 2)
    out = f.to(f.reshape(out, *out.shape[:2], -1), q.dtype)
    del row
    return run(t, block.out, out, around)


def placed(t: Tape, x: Value, size: int, around: Around) -> Value:
    """x[:, :, text:] = apply_rotary_emb(x[:, :, text:], …, use_real_unbind_dim=-2)."""
    part = f.narrow(x, 2, size)
    cos, sin = (t.new((1, 1, size, around.scene.turns), "fp32") for _ in range(2))
    real, imaginary = f.unbind(f.reshape(part, *part.shape[:-1], 2, part.shape[-1] // 2), -2)
    turned = f.cat((f.neg(imaginary), real))
    out = f.add(f.mul(f.to(part, "fp32"), cos), f.mul(f.to(turned, "fp32"), sin))
    return f.assign(x, f.to(out, x.dtype))
