"""Diffusion transformers: layers modulated by a vector, and two streams of tokens that attend to each other (diffusers)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.diffusion import (
    ActiveVector,
    FirstHalf,
    FirstTokens,
    Modulate,
    ModulatedBlock,
    Modulation,
    TablePositions,
)
from memcalc.blocks.joint import JointAttention, JointBlock
from memcalc.tape import functions as f
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.attention import heads
from memcalc.tape.rules import Around, gone, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(TablePositions)
def table_positions(t: Tape, block: TablePositions, x: Value, around: Around) -> Value:
    """PatchEmbed.forward: (latent + pos_embed).to(latent.dtype); the middle of a larger table is a copy."""
    tokens, width = x.shape[1:]
    shape = (1, tokens, width)
    kept = t.given((1, block.stored or tokens, width), "fp32", "pos_embed") if not block.cropped else None
    cropped = kept if kept is not None and kept.shape == shape else t.new(shape, "fp32")
    out = f.to(f.add(x, cropped), x.dtype)
    del cropped
    return out


@rule(Modulation)
def modulation(t: Tape, block: Modulation, x: Value, around: Around) -> Value:
    """AdaLayerNorm…: the vectors of a layer, made of the conditioning vector; the stream passes by."""
    scene = around.scene
    if block.condition:
        condition(t, block, x, around)
    vector = scene.vector
    if block.table is not None:
        table = t.weight(block.table.name, block.table.shape)
        table = table if len(table.shape) > 2 else f.unsqueeze(table, 0)
        scene.chunks = list(f.chunk(f.add(table, f.unsqueeze(vector, 1)), block.chunks, 1))
        return x
    assert block.linear  # noqa: S101 - it has one or the other
    made = run(t, block.linear, activate(block.activation, vector) if block.silu else vector, around)
    if block.shared:
        scene.shared = scene.made[block.name] = made
    else:
        scene.chunks = [f.unsqueeze(part, 1) for part in f.chunk(made, block.chunks, 1)]
    return x


def condition(t: Tape, block: Modulation, x: Value, around: Around) -> None:
    """The vector that the block makes for itself, or by the parameters of the first layer (DiT's last norm)."""
    assert block.condition  # noqa: S101 - the caller has looked
    around.scene.vector, place = None, (t.path, t.instance)
    if block.borrowed:
        t.path, t.instance = block.borrowed, "/0"
    run(t, block.condition, x, around)
    t.path, t.instance = place


def vectors(t: Tape, block: Block, x: Value, around: Around) -> list[Value]:
    """The vectors [batch, 1, width] of a modulation."""
    run(t, block, x, around)
    made, around.scene.chunks = around.scene.chunks, []
    return list(made)


@rule(Modulate)
def modulate_stream(_: Tape, block: Modulate, x: Value, around: Around) -> Value:
    """AdaLayerNormContinuous.forward behind its norm; LuminaLayerNormContinuous.forward."""
    shift, *scale = around.scene.chunks
    around.scene.chunks = []
    if not scale:
        return f.mul(x, f.shift(shift))
    scale = scale[0]
    return modulated(x, scale, shift)


def stream_modulated(given: list[Value], around: Around) -> Value:
    """The same of what has no name but that of a norm's output in one expression with it."""
    shift, scale = around.scene.chunks
    around.scene.chunks = []
    return at_once(given.pop(), scale, shift)


@rule(FirstTokens)
def first_tokens(_: Tape, block: FirstTokens, x: Value, __: Around) -> Value:
    """model_pred[:, : packed_noisy_model_input.size(1)] (diffusers, examples/dreambooth)."""
    return f.narrow(x, 1, block.count)


@rule(ActiveVector)
def active_vector(_: Tape, __: ActiveVector, x: Value, around: Around) -> Value:
    """F.silu(temb)."""
    around.scene.vector = f.silu(around.scene.vector)
    return x


@rule(FirstHalf)
def first_half(_: Tape, __: FirstHalf, x: Value, around: Around) -> Value:
    """temb.chunk(2, dim=0)[0]; a layer that is run again is given what it was given."""
    scene = around.scene
    scene.whole = scene.vector
    scene.vector = f.chunk(scene.vector, 2, 0)[0]
    return x


def modulated(x: Value, scale: Value, shift: Value) -> Value:
    """x * (1 + scale) + shift, where x has a name until the sum takes it."""
    return f.add(f.mul(x, f.shift(scale)), shift)


def at_once(x: Value, scale: Value, shift: Value) -> Value:
    """norm(x) * (1 + scale) + shift in one line: what is normed goes as soon as it is multiplied (AdaLayerNormZero)."""
    scaled = f.mul(x, f.shift(scale))
    del x
    return f.add(scaled, shift)


@rule(ModulatedBlock, "", "pixart", "sana")
def modulated_block(t: Tape, block: ModulatedBlock, x: Value, around: Around) -> Value:
    """BasicTransformerBlock.forward with ada_norm_zero (DiT) or ada_norm_single (PixArt); SanaTransformerBlock.forward."""
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = six(t, block, x, around)
    first, second = block.norms
    y = modulated(run(t, first, x, around), scale, shift)
    y = f.to(y, x.dtype) if block.formula == "sana" else y
    attended = f.mul(gate, run(t, block.mixer, y, around))
    x = f.add(attended, x)
    if block.cross:
        y = x if block.formula == "pixart" else y  # norm_hidden_states = hidden_states
        attended = run(t, block.cross, x, around)
        x = f.add(attended, x)
    y = run(t, second, x, around)
    y = modulated(y, scale_mlp, shift_mlp)
    fed = f.mul(gate_mlp, through(t, block.feed, y, around))
    out = f.add(fed, x)
    del attended, y
    return out


def through(t: Tape, feed: Block | None, x: Value, around: Around) -> Value:
    """A feed-forward block; what it handed to its own modules goes with them."""
    out = run(t, feed, x, around)
    gone(around.handed)
    return out


def six(t: Tape, block: ModulatedBlock, x: Value, around: Around) -> list[Value]:
    """The block's six vectors: of its own modulation, or the shared ones plus its table."""
    if block.modulation:
        return vectors(t, block.modulation, x, around)
    assert block.table  # noqa: S101 - it has one or the other
    table = f.unsqueeze(t.weight(block.table.name, block.table.shape), 0)
    shared = f.reshape(around.scene.shared, x.shape[0], 6, -1)
    return list(f.chunk(f.add(table, shared), 6, 1))


@rule(JointBlock, "", "flux")
def joint_block(t: Tape, block: JointBlock, x: Value, around: Around) -> Value:
    """JointTransformerBlock.forward; FluxTransformerBlock.forward."""
    assert block.modulation and block.context_modulation and block.mlp and block.attention  # noqa: S101, PT018
    context = text(around)
    own = vectors(t, block.modulation, x, around)
    if block.dual:
        normed = norm(x)
        y, again = modulated(normed, own[1], own[0]), modulated(normed, own[7], own[6])
        del normed
    else:
        y, again = at_once(norm(x), own[1], own[0]), None
    other = vectors(t, block.context_modulation, context, around)
    scale, shift = (1, 0) if block.context_mlp else (0, 1)  # AdaLayerNormContinuous: scale first
    z = at_once(norm(context), other[scale], other[shift])
    outputs = joint(t, block.attention, y, z, around)
    attended, context_attended = outputs
    if not block.formula:  # attention_outputs has a name in FLUX
        del outputs
    attended = f.mul(own[2], attended)
    x = f.add(x, attended)
    if again is not None:
        second = f.mul(own[8], run(t, block.dual, again, around))
        x = f.add(x, second)
    y = norm(x)
    y = modulated(y, own[4], own[3])
    fed = f.mul(own[5], through(t, block.mlp, y, around))
    x = f.add(x, fed)
    around.encoder = None
    if block.context_mlp and context_attended is not None:
        context_attended = f.mul(other[2], context_attended)
        context = f.add(context, context_attended)
        z = norm(context)
        z = modulated(z, other[4], other[3])
        made = f.add(context, f.mul(other[5], through(t, block.context_mlp, z, around)))
        around.encoder = clipped(made) if block.formula else made
    return x


def clipped(x: Value) -> Value:
    """x.clip(-65504, 65504) of fp16, as FLUX and its descendants end their layers."""
    return f.clamp(x) if x.dtype == "fp16" else x


def text(around: Around) -> Value:
    """The stream of text tokens."""
    assert around.encoder is not None  # noqa: S101 - a model of two streams is given one
    return around.encoder


def norm(x: Value) -> Value:
    """nn.LayerNorm without weights."""
    return f.layer_norm(x, None, None)


def joint(t: Tape, block: Block, x: Value, context: Value, around: Around) -> tuple[Value, Value | None]:
    """The attention of both streams, by the path of its own name."""
    before, around.encoder = around.encoder, context
    out = run(t, block, x, around)
    found, around.encoder = around.encoder, before
    return out, found


@rule(JointAttention)
def joint_attention(t: Tape, block: JointAttention, x: Value, around: Around) -> Value:
    """JointAttnProcessor2_0: image tokens, then text tokens. The text's part of the output is left in `around`."""
    context = text(around)
    own = [run(t, part, x, around) for part in (block.q, block.k, block.v) if part]
    own = normed(t, [heads(part, block.heads) for part in own], (block.q_norm, block.k_norm), around)
    other = [run(t, part, context, around) for part in block.context]
    other = [heads(part, block.heads) for part in other]
    other = normed(t, other, block.context_norms, around)
    q, k, v = (f.cat((a, b), 2) for a, b in zip(own, other, strict=True))
    out = f.transpose(f.attention(q, k, v), 1, 2)
    out = f.to(f.reshape(out, *out.shape[:2], -1), q.dtype)
    mine, rest = f.narrow(out, 1, x.shape[1]), f.narrow(out, 1, context.shape[1])
    around.encoder = run(t, block.context_out, rest, around)
    return run(t, block.out, mine, around)


def normed(t: Tape, parts: list[Value], norms: tuple[Block | None, ...], around: Around) -> list[Value]:
    """Queries and keys through their norms, each in place of what it was; values as they are."""
    for i, part in enumerate(norms):
        if part:
            parts[i] = run(t, part, parts[i], around)
    return parts


def both(t: Tape, block: JointAttention, x: Value, context: Value, around: Around) -> tuple[list[Value], list[Value]]:
    """Queries, keys and values [batch, tokens, heads, channels] of the image and of the text, normed where norms are."""
    own = [run(t, part, x, around) for part in (block.q, block.k, block.v) if part]
    other = [run(t, part, context, around) for part in block.context]
    own, other = ([by_head(part, block.heads) for part in parts] for parts in (own, other))
    own = normed(t, own, (block.q_norm, block.k_norm), around)
    return own, normed(t, other, block.context_norms, around)


def by_head(x: Value, count: int) -> Value:
    """[batch, tokens, heads, channels]."""
    return f.reshape(x, *x.shape[:2], count, -1)
