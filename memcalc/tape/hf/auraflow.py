"""AuraFlow: two streams, then one row; what a layer adds up was there before its attention (diffusers)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.diffusion import ModulatedBlock
from memcalc.blocks.joint import JointAttention, JointBlock, PickedPositions, Registers
from memcalc.tape import functions as f
from memcalc.tape.hf.dit import both, by_head, joint, modulated, normed, text, through, vectors
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(PickedPositions)
def picked_positions(t: Tape, block: PickedPositions, x: Value, _: Around) -> Value:
    """AuraFlowPatchEmbed.forward: latent + pos_embed[:, pe_index]."""
    table = t.weight("", block.shape)
    where = t.new((x.shape[1],), "int64")
    return f.add(x, f.index(table, where, (1, *x.shape[1:])))


@rule(Registers)
def registers(t: Tape, block: Registers, x: Value, _: Around) -> Value:
    """AuraFlowTransformer2DModel.forward: cat([register_tokens.repeat(batch, 1, 1), encoder_hidden_states])."""
    tokens = f.repeat(f.to(t.weight("", block.shape), x.dtype), x.shape[0])
    return f.cat((tokens, x), 1)


def norm(x: Value) -> Value:
    """FP32LayerNorm.forward without weights."""
    return f.to(f.layer_norm(f.to(x, "fp32"), None, None), x.dtype)


@rule(JointBlock, "auraflow")
def joint_block(t: Tape, block: JointBlock, x: Value, around: Around) -> Value:
    """AuraFlowJointTransformerBlock.forward."""
    assert block.modulation and block.context_modulation and block.attention  # noqa: S101, PT018 - it has them
    context = text(around)
    own = vectors(t, block.modulation, x, around)
    y = modulated(norm(x), own[1], own[0])
    other = vectors(t, block.context_modulation, context, around)
    z = modulated(norm(context), other[1], other[0])
    attended, context_attended = joint(t, block.attention, y, z, around)
    assert context_attended is not None  # noqa: S101 - its text tokens go on
    made = fed(t, block.mlp, norm(f.add(x, f.mul(own[2], attended))), own, around)
    out = f.add(x, made)
    del made
    made = fed(t, block.context_mlp, norm(f.add(context, f.mul(other[2], context_attended))), other, around)
    around.encoder = f.add(context, made)
    del y, z, attended, context_attended
    return out


def fed(t: Tape, feed: Block | None, x: Value, vectors: list[Value], around: Around) -> Value:
    """gate_mlp * ff(x * (1 + scale_mlp) + shift_mlp)."""
    x = modulated(x, vectors[4], vectors[3])
    return f.mul(vectors[5], through(t, feed, x, around))


@rule(ModulatedBlock, "auraflow")
def single_block(t: Tape, block: ModulatedBlock, x: Value, around: Around) -> Value:
    """AuraFlowSingleTransformerBlock.forward."""
    assert block.modulation  # noqa: S101 - it has its own
    own = vectors(t, block.modulation, x, around)
    y = modulated(norm(x), own[1], own[0])
    attended = run(t, block.mixer, y, around)
    made = norm(f.add(x, f.mul(own[2], attended)))
    made = modulated(made, own[4], own[3])
    output = through(t, block.feed, made, around)
    made = f.mul(own[5], output)
    out = f.add(x, made)
    del y, attended, output
    return out


@rule(JointAttention, "auraflow")
def joint_attention(t: Tape, block: JointAttention, x: Value, around: Around) -> Value:
    """AuraFlowAttnProcessor2_0: text tokens before image tokens; each part of the output projected as a view."""
    context = text(around)
    own, other = both(t, block, x, context, around)
    for i, part in enumerate(other):
        own[i] = f.cat((part, own[i]), 1)
    q, k, v = (f.transpose(part, 1, 2) for part in own)
    out = f.transpose(f.attention(q, k, v), 1, 2)
    out = f.to(f.reshape(out, *out.shape[:2], -1), q.dtype)
    mine, rest = f.narrow(out, 1, x.shape[1]), f.narrow(out, 1, context.shape[1])
    mine = run(t, block.out, mine, around)
    around.encoder = run(t, block.context_out, rest, around) if block.context_out else None
    return mine


@rule(Attention, "auraflow")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """The same over one row of tokens."""
    own = [run(t, part, x, around) for part in (block.q, block.k, block.v) if part]
    own = [by_head(part, block.heads) for part in own]
    q, k, v = (f.transpose(part, 1, 2) for part in normed(t, own, (block.q_norm, block.k_norm), around))
    out = f.transpose(f.attention(q, k, v), 1, 2)
    return run(t, block.out, f.to(f.reshape(out, *out.shape[:2], -1), q.dtype), around)
