"""FLUX: streams of text and image that are rotated together, first side by side, then in one row (diffusers)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.joint import AxialRotary, JointAttention, SingleBlock
from memcalc.tape import functions as f
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.dit import at_once, both, by_head, clipped, norm, normed, text, vectors
from memcalc.tape.rules import Around, gone, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(JointAttention, "flux")
def flux_joint(t: Tape, block: JointAttention, x: Value, around: Around) -> Value:
    """FluxAttnProcessor: text tokens, then image tokens, rotated together."""
    context = text(around)
    own, other = both(t, block, x, context, around)
    for i, part in enumerate(other):
        own[i] = f.cat((part, own[i]), 1)
    out = flux_attend(own, around)
    rest, mine = f.split(out, (context.shape[1], x.shape[1]), 1)
    project = strided if block.strided and x.shape[0] > 1 else run
    mine = project(t, block.out, f.contiguous(mine), around)
    around.encoder = project(t, block.context_out, f.contiguous(rest), around) if block.context_out else None
    del out, rest
    gone(own)
    return mine


def strided(t: Tape, block: Block | None, x: Value, around: Around) -> Value:
    """at::linear of what lies in strides: a product of a copy and then the bias, added as to tensors that aren't plain."""
    assert block  # noqa: S101 - its caller has looked
    with inside(t, block):
        bias = f.lower(t.weight("bias", (block.outputs,)))  # type: ignore[attr-defined]  # a linear layer
    return f.add(run(t, replace(block, bias=False), x, around), bias)  # type: ignore[call-arg]


@rule(Attention, "flux")
def flux_single(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """FluxAttnProcessor over one row of tokens, without a projection behind it."""
    own = [run(t, part, x, around) for part in (block.q, block.k, block.v) if part]
    own = [by_head(part, block.heads) for part in own]
    return flux_attend(normed(t, own, (block.q_norm, block.k_norm), around), around)


def flux_attend(parts: list[Value], around: Around) -> Value:
    """Rotated queries and keys through the fused kernel: [batch, tokens, width]."""
    for i in range(2):
        parts[i] = rotated(parts[i], around.scene.rotary)
    q, k, v = (f.transpose(part, 1, 2) for part in parts)
    out = f.transpose(f.attention(q, k, v), 1, 2)
    return f.reshape(out, *out.shape[:2], -1)


def rotated(x: Value, tables: tuple[Value, Value]) -> Value:
    """apply_rotary_emb: by neighbouring pairs, in fp32 (diffusers, embeddings.py)."""
    real, imaginary = f.unbind(f.reshape(x, *x.shape[:-1], x.shape[-1] // 2, 2), -1)
    turned = f.reshape(f.stack((f.neg(imaginary), real), -1), *x.shape)
    cos, sin = (f.unsqueeze(f.unsqueeze(table, 0), 2) for table in tables)
    return f.to(f.add(f.mul(f.to(x, "fp32"), cos), f.mul(f.to(turned, "fp32"), sin)), x.dtype)


@rule(SingleBlock)
def single_block(t: Tape, block: SingleBlock, x: Value, around: Around) -> Value:
    """FluxSingleTransformerBlock.forward: both streams in one row, attention and MLP at once, and cut apart again."""
    assert block.modulation and block.attention and block.up and block.out  # noqa: S101, PT018
    context = text(around)
    row = f.cat((context, x), 1)
    shift, scale, gate = vectors(t, block.modulation, row, around)
    y = at_once(norm(row), scale, shift)
    inner = [run(t, block.up, y, around)]
    inner.append(activated(block.activation, inner[0] if block.activation == "swiglu" else inner.pop()))
    attended = run(t, block.attention, y, around)
    out = f.cat((attended, inner[-1]), 2)
    out = f.mul(gate, run(t, block.out, out, around))
    out = clipped(f.add(row, out))
    names = [row, y, *inner[::-1], attended]  # a gate among them
    del row, y, attended
    inner.clear()
    gone(names)
    around.encoder, made = f.narrow(out, 1, context.shape[1]), f.narrow(out, 1, x.shape[1])
    return made


def activated(name: str, x: Value) -> Value:
    """The MLP's activation; of one that is gated (Ovis-Image), the first half times the activated second."""
    if name != "swiglu":
        return activate(name, x)
    half = x.shape[-1] // 2
    up, gate = f.split(x, (half, half))
    return f.mul(activate("silu", gate), up)


@rule(AxialRotary)
def axial_rotary(t: Tape, block: AxialRotary, x: Value, around: Around) -> Value:
    """FluxPosEmbed.forward: tables [text and image tokens, channels] of cos and sin, axis by axis in fp64."""
    if block.apart:
        tables_apart(t, block, x, around)
        return x
    tokens = x.shape[1] + (around.encoder.shape[1] if around.encoder is not None else 0)
    positions = f.to(t.new((tokens, len(block.axes)), x.dtype), "fp32")
    tables = [axis_tables(t, tokens, dim) for dim in block.axes]
    cos = f.cat([table[0] for table in tables])
    sin = f.cat([table[1] for table in tables])
    del positions
    around.scene.rotary = cos, sin
    return x


def tables_apart(t: Tape, block: AxialRotary, x: Value, around: Around) -> None:
    """Flux2PosEmbed.forward, called for the image and for the text; all of these tables have names to the end."""
    kinds = [tables_of(t, block, stream.shape[1]) for stream in (x, text(around))]
    (cos, sin), (text_cos, text_sin) = kinds
    around.named += cos, sin, text_cos, text_sin
    around.scene.rotary = f.cat((text_cos, cos), 0), f.cat((text_sin, sin), 0)


def tables_of(t: Tape, block: AxialRotary, tokens: int) -> tuple[Value, Value]:
    """Tables [tokens, channels] of all axes."""
    positions = t.new((tokens, len(block.axes)), "fp32")
    tables = [axis_tables(t, tokens, dim) for dim in block.axes]
    made = f.cat([table[0] for table in tables]), f.cat([table[1] for table in tables])
    del positions
    return made


def axis_tables(t: Tape, tokens: int, dim: int) -> tuple[Value, Value]:
    """get_1d_rotary_pos_embed: cos and sin, each repeated for both of a pair."""
    angles = t.new((tokens, dim // 2), "fp64")
    cos = f.to(f.reshape(f.cat((f.scale(angles),) * 2), tokens, dim), "fp32")
    sin = f.to(f.reshape(f.cat((f.scale(angles),) * 2), tokens, dim), "fp32")
    return cos, sin
