"""Mochi: norms in fp32 times a vector, tables made of learned frequencies, attention sample by sample (diffusers)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.basic import Norm
from memcalc.blocks.joint import JointAttention, JointBlock
from memcalc.blocks.mochi import CutFrames, PooledTime
from memcalc.tape import functions as f
from memcalc.tape.hf.diffusion import given
from memcalc.tape.hf.diffusion import through as conditioned
from memcalc.tape.hf.dit import both, joint, text, through, vectors
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(PooledTime)
def pooled_time(t: Tape, block: PooledTime, x: Value, around: Around) -> Value:
    """MochiCombinedTimestepCaptionEmbedding.forward."""
    assert block.time  # noqa: S101 - it has one
    with inside(t, block.time):
        time = conditioned(t, block.time, given(t, block.time, x.shape[0]), around)  # type: ignore[arg-type]  # a Condition
    pooled = _pooled(t, block, text(around), around)
    around.encoder = run(t, block.caption, text(around), around)
    around.scene.vector = f.add(time, pooled)
    return x


def _pooled(t: Tape, block: PooledTime, states: Value, around: Around) -> Value:
    """MochiAttentionPool.forward: attention of the mean to it and to all states."""
    batch, length, width = states.shape
    mask = t.new((batch, 1, 1, 1 + length), "bool")
    product = t.new(states.shape, states.dtype)
    mean = t.new((batch, 1, width), states.dtype)
    del product
    row = f.cat((mean, states), 1)
    del mean
    kv = run(t, block.into[0], row, around)
    q = run(t, block.into[1], f.select(row, 1), around)
    kv = f.transpose(f.reshape(kv, batch, 1 + length, 2, block.heads, -1), 1, 3)
    k, v = f.unbind(kv, 2)
    out = f.attention(f.unsqueeze(f.reshape(q, batch, block.heads, -1), 2), k, v, mask)
    return run(t, block.out, f.reshape(f.squeeze(out, 2), batch, -1), around)


@rule(CutFrames)
def cut_frames(t: Tape, block: CutFrames, x: Value, around: Around) -> Value:
    """Each frame by the convolution; MochiRoPE.forward: cos and sin [tokens, heads, pairs], whose frequencies learn."""
    assert block.frequencies  # noqa: S101 - it has some
    batch, channels, frames, *_ = x.shape
    rows = run(t, block.conv, f.reshape(f.permute(x, 0, 2, 1, 3, 4), batch * frames, channels, *x.shape[3:]), around)
    around.scene.sizes.append((frames, *rows.shape[2:]))
    width = rows.shape[1]
    rows = f.transpose(f.reshape(rows, batch * frames, width, -1), 1, 2)
    tokens = frames * rows.shape[1]
    rows = f.reshape(f.reshape(rows, batch, frames, -1, width), batch, tokens, width)
    rates, before = t.weight(block.frequencies.name, block.frequencies.shape), t.autocast
    t.autocast = ""
    angles = f.einsum("nd,dhf->nhf", t.new((tokens, 3), "fp32"), f.to(rates, "fp32"))
    around.scene.rotary = f.cosine(angles), f.sine(angles)
    t.autocast = before
    return rows


def root_mean(x: Value) -> Value:
    """RMSNorm.forward without weights, of values in fp32."""
    return f.mul(x, f.rsqrt(f.shift(f.mean(f.square(x), -1))))


def scaled(x: Value, scale: Value) -> Value:
    """MochiModulatedRMSNorm.forward."""
    wide = f.to(x, "fp32")
    wide = root_mean(wide)
    wide = f.mul(wide, scale)
    return f.to(wide, x.dtype)


def raised(x: Value) -> Value:
    """1 + x in fp32."""
    return f.shift(f.to(x, "fp32"))


@rule(Norm, "mochi")
def mochi_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """MochiRMSNorm.forward."""
    variance = f.mean(f.square(f.to(x, "fp32")), -1)
    out = f.mul(x, f.rsqrt(f.shift(variance)))
    out = f.mul(out, t.weight("weight", (block.width,)))
    return f.to(out, x.dtype)


@rule(JointBlock, "mochi")
def joint_block(t: Tape, block: JointBlock, x: Value, around: Around) -> Value:
    """MochiTransformerBlock.forward; what it is given of the text has a name in the model."""
    assert block.modulation and block.context_modulation and block.attention  # noqa: S101, PT018 - it has them
    before = context = text(around)
    own = vectors(t, block.modulation, x, around)
    y = f.to(f.mul(root_mean(f.to(x, "fp32")), raised(own[0])), x.dtype)
    other = vectors(t, block.context_modulation, context, around)
    z = f.to(f.mul(root_mean(f.to(context, "fp32")), raised(other[0])), context.dtype)
    attended, context_attended = joint(t, block.attention, y, z, around)
    x = f.add(x, scaled(attended, f.tanh(own[1])))
    y = scaled(x, raised(own[2]))
    fed = through(t, block.mlp, y, around)
    x = f.add(x, scaled(fed, f.tanh(own[3])))
    context_fed = None
    if block.context_mlp and context_attended is not None:
        context = f.add(context, scaled(context_attended, f.tanh(other[1])))
        z = scaled(context, raised(other[2]))
        context_fed = through(t, block.context_mlp, z, around)
        context = f.add(context, scaled(context_fed, f.tanh(other[3])))
    around.encoder = context
    del y, z, attended, context_attended, fed, context_fed, before
    return x


@rule(JointAttention, "mochi")
def joint_attention(t: Tape, block: JointAttention, x: Value, around: Around) -> Value:
    """MochiAttnProcessor2_0: sample by sample, without the text's padding, which is put back."""
    context = text(around)
    own, other = both(t, block, x, context, around)
    for i in range(2):
        own[i] = turned(own[i], around)
    own, other = ([f.transpose(part, 1, 2) for part in parts] for parts in (own, other))
    outs, rows, picked, where = [], list["Value"](), list["Value"](), None
    for _ in range(x.shape[0]):
        where = t.new((context.shape[1],), "int64")
        picked = [f.index(f.narrow(part, 0, 1), where, (1, *part.shape[1:])) for part in other]
        rows = [f.cat((f.narrow(a, 0, 1), b), 2) for a, b in zip(own, picked, strict=True)]
        outs.append(f.clone(f.attention(rows[0], rows[1], rows[2])))
    out = f.transpose(f.cat(outs, 0), 1, 2)
    out = f.reshape(out, *out.shape[:2], -1)
    mine, rest = f.split(out, (x.shape[1], context.shape[1]), 1)
    del out
    mine = run(t, block.out, mine, around)
    around.encoder = run(t, block.context_out, rest, around) if block.context_out else rest
    del outs, rows, picked, where
    return mine


def turned(x: Value, around: Around) -> Value:
    """apply_rotary_emb: even and odd channels in fp32, times tables that learn, cast back and put together."""
    cos, sin = around.scene.rotary
    even, odd = (f.to(f.select(f.reshape(x, *x.shape[:-1], x.shape[-1] // 2, 2), -1), "fp32") for _ in range(2))
    first = f.to(f.subtract(f.mul(even, cos), f.mul(odd, sin)), x.dtype)
    second = f.to(f.add(f.mul(even, sin), f.mul(odd, cos)), x.dtype)
    return f.reshape(f.stack((first, second), -1), *x.shape)
