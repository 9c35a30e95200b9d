"""HunyuanVideo: video tokens before text tokens, of which the video's are rotated (transformer_hunyuan_video.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.basic import Embedding
from memcalc.blocks.diffusion import Condition, ModulatedBlock
from memcalc.blocks.joint import JointAttention, JointBlock, SingleBlock
from memcalc.blocks.streams import GridAngles, MixedTexts, TokenRefiner
from memcalc.tape import functions as f
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.attention import heads
from memcalc.tape.hf.diffusion import through as conditioned
from memcalc.tape.hf.dit import by_head, joint, modulated, norm, normed, text, through, vectors
from memcalc.tape.hf.flux import rotated
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(GridAngles)
def grid_angles(t: Tape, block: GridAngles, x: Value, around: Around) -> Value:
    """HunyuanVideoRotaryPosEmbed.forward: cos and sin [tokens, channels] in fp32, axis by axis."""
    tokens = 1
    for size, patch in zip(x.shape[2:], block.patch, strict=True):
        tokens *= size // patch
    grid = t.new((len(block.axes), tokens), "fp32")
    tables: list[tuple[Value, Value]] = []
    for dim in block.axes:
        angles = t.new((tokens, dim // 2), "fp32")
        tables.append((f.repeat_interleave(f.scale(angles), 2, 1), f.repeat_interleave(f.scale(angles), 2, 1)))
        del angles
    cos, sin = f.cat([table[0] for table in tables]), f.cat([table[1] for table in tables])
    around.scene.rotary = cos, sin
    del grid
    return x


@rule(TokenRefiner)
def token_refiner(t: Tape, block: TokenRefiner, x: Value, around: Around) -> Value:
    """HunyuanVideoTokenRefiner.forward, and the mask of padding that the model makes behind it."""
    scene, states = around.scene, text(around)
    batch, length = states.shape[:2]
    wide = f.mul(states, t.new((batch, length, 1), "fp32"))
    mean = f.to(t.new((batch, wide.shape[-1]), "fp32"), states.dtype)
    del wide
    vector, scene.vector = scene.vector, None
    run(t, block.time, x, around)
    scene.vector = f.add(scene.vector, _pooled(t, block, mean, around))
    states = run(t, block.into, states, around)
    once = t.new((batch, 1, length, length), "bool")
    scene.mask = t.new(once.shape, "bool")
    around.encoder = run(t, block.layers, states, around)
    scene.vector, scene.mask = vector, t.new((batch, 1, 1, x.shape[1] + length), "bool")
    del once
    return x


def _pooled(t: Tape, block: TokenRefiner, mean: Value, around: Around) -> Value:
    """text_embedder(mean)."""
    assert block.pooled  # noqa: S101 - it has one
    embedder = block.pooled.parts()[0]
    assert isinstance(embedder, Condition)  # noqa: S101 - as its architecture makes it
    with inside(t, block.pooled), inside(t, embedder):
        return conditioned(t, embedder, mean, around)


@rule(MixedTexts)
def mixed_texts(t: Tape, block: MixedTexts, x: Value, around: Around) -> Value:
    """HunyuanVideo15Transformer3DModel.forward, without an image to begin with, and no padding; HunyuanImage's has none."""
    own = [text(around)]
    around.encoder = None
    own[0] = marked(t, block, own[0], around)
    for into, count, width in zip((block.glyphs, block.image), block.counts[::-1], block.widths[::-1], strict=True):
        if into is None:
            continue
        made = run(t, into, t.given((x.shape[0], count, width), t.setting.weights), around)
        made = f.scale(made) if into is block.image else made
        own.append(marked(t, block, made, around))
        del made
    rows = []
    for parts in zip(*(f.unbind(states) for states in own), strict=True):
        rows.append(f.cat([f.index(part, t.new((part.shape[0],), "bool"), part.shape) for part in parts], 0))
        del parts
    around.encoder = f.stack(rows)
    around.named += [*own[1:], *rows]
    batch, length = around.encoder.shape[:2]
    around.scene.mask = t.new((batch, length) if block.image else (batch, 1, 1, x.shape[1] + length), "bool")
    return x


def marked(t: Tape, block: MixedTexts, states: Value, around: Around) -> Value:
    """states + cond_type_embed(kind), whose rows keep their name."""
    if block.kinds is None:
        return states
    assert isinstance(block.kinds, Embedding)  # noqa: S101 - as its architecture makes it
    with inside(t, block.kinds):
        kind = f.embedding(t.new(states.shape[:2], "int64"), t.weight("weight", (block.kinds.rows, block.kinds.width)))
    around.named.append(kind)
    return f.add(states, kind)


@rule(ModulatedBlock, "refiner")
def refiner_layer(t: Tape, block: ModulatedBlock, x: Value, around: Around) -> Value:
    """HunyuanVideoIndividualTokenRefinerBlock.forward."""
    assert block.modulation  # noqa: S101 - it has gates of its own
    y = run(t, block.norms[0], x, around)
    attended = run(t, block.mixer, y, around)
    gate, gate_mlp = vectors(t, block.modulation, x, around)
    x = f.add(x, f.mul(attended, gate))
    fed = through(t, block.feed, run(t, block.norms[1], x, around), around)
    out = f.add(x, f.mul(fed, gate_mlp))
    del y, attended, fed
    return out


@rule(Attention, "masked")
def masked_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """AttnProcessor2_0 with a mask of all pairs of tokens, once for every head."""
    batch, length = x.shape[:2]
    mask = t.new((batch, block.heads, length, length), "bool")
    own = [run(t, part, x, around) for part in (block.q, block.k, block.v) if part]
    q, k, v = (heads(part, block.heads) for part in own)
    own.clear()
    out = f.transpose(f.attention(q, k, v, mask), 1, 2)
    out = f.to(f.reshape(out, *out.shape[:2], -1), q.dtype)
    return f.scale(run(t, block.out, out, around))


@rule(JointBlock, "hunyuan-video")
def joint_block(t: Tape, block: JointBlock, x: Value, around: Around) -> Value:
    """HunyuanVideoTransformerBlock.forward."""
    assert block.modulation and block.context_modulation and block.attention  # noqa: S101, PT018 - it has them
    context = text(around)
    own = vectors(t, block.modulation, x, around)
    y = modulated(norm(x), own[1], own[0])
    other = vectors(t, block.context_modulation, context, around)
    z = modulated(norm(context), other[1], other[0])
    attended, context_attended = joint(t, block.attention, y, z, around)
    assert context_attended is not None  # noqa: S101 - its text tokens go on
    x = f.add(x, f.mul(attended, own[2]))
    context = f.add(context, f.mul(context_attended, other[2]))
    y, z = norm(x), norm(context)
    y = modulated(y, own[4], own[3])
    z = modulated(z, other[4], other[3])
    fed, context_fed = through(t, block.mlp, y, around), through(t, block.context_mlp, z, around)
    out = f.add(x, f.mul(own[5], fed))
    around.encoder = f.add(context, f.mul(other[5], context_fed))
    del y, z, attended, context_attended, fed, context_fed
    return out


@rule(JointAttention, "hunyuan-video")
def joint_attention(t: Tape, block: JointAttention, x: Value, around: Around) -> Value:
    """HunyuanVideoAttnProcessor2_0 with projections of the text's own."""
    context = text(around)
    own = [run(t, part, x, around) for part in (block.q, block.k, block.v) if part]
    own = normed(t, [by_head(part, block.heads) for part in own], (block.q_norm, block.k_norm), around)
    for i in range(2):
        own[i] = rotated(own[i], around.scene.rotary)
    other = [run(t, part, context, around) for part in block.context]
    other = normed(t, [by_head(part, block.heads) for part in other], block.context_norms, around)
    for i, part in enumerate(other):
        own[i] = f.cat((own[i], part), 1)
    masks = of_pairs(around.scene.mask, own[0].shape[1])
    out = attended_under_mask(own, masks)
    mine, rest = f.narrow(out, 1, x.shape[1]), f.narrow(out, 1, context.shape[1])
    mine = run(t, block.out, mine, around)
    around.encoder = run(t, block.context_out, rest, around) if block.context_out else None
    del masks
    return mine


def attended_under_mask(parts: list[Value], masks: tuple[Value, ...]) -> Value:
    """dispatch_attention_fn with a mask of padding: [batch, tokens, width]."""
    q, k, v = (f.transpose(part, 1, 2) for part in parts)
    out = f.transpose(f.attention(q, k, v, masks[0]), 1, 2)
    return f.to(f.reshape(out, *out.shape[:2], -1), q.dtype)


def of_pairs(mask: Value, tokens: int) -> tuple[Value, ...]:
    """A mask of the text's padding; of one [batch, tokens] a mask of all pairs, and what it is made of (HunyuanVideo 1.5)."""
    if len(mask.shape) > 2:
        return (mask,)
    shape = (mask.shape[0], 1, tokens, tokens)
    once = mask.tape.new(shape, "bool")
    return mask.tape.new(shape, "bool"), once


@rule(SingleBlock, "hunyuan-video")
def single_block(t: Tape, block: SingleBlock, x: Value, around: Around) -> Value:
    """HunyuanVideoSingleTransformerBlock.forward."""
    assert block.modulation  # noqa: S101 - it has its own
    context = text(around)
    sizes = x.shape[1], context.shape[1]
    row = f.cat((x, context), 1)
    shift, scale, gate = vectors(t, block.modulation, row, around)
    y = modulated(norm(row), scale, shift)
    inner = activate(block.activation, run(t, block.up, y, around))
    y, around.encoder = f.narrow(y, 1, sizes[0]), f.narrow(y, 1, sizes[1])
    parts = run(t, block.attention, y, around)  # of which the text's keeps its name
    attended = f.cat((f.narrow(parts, 1, sizes[0]), f.narrow(parts, 1, sizes[1])), 1)
    out = f.cat((attended, inner), 2)
    out = f.mul(gate, run(t, block.out, out, around))
    out = f.add(out, row)
    around.encoder, made = f.narrow(out, 1, sizes[1]), f.narrow(out, 1, sizes[0])
    del y, attended, parts, inner
    return made


@rule(Attention, "hunyuan-video")
def single_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """HunyuanVideoAttnProcessor2_0 over both streams in one row."""
    size, rest = x.shape[1], text(around).shape[1]
    row = f.cat((x, text(around)), 1)
    own = [run(t, part, row, around) for part in (block.q, block.k, block.v) if part]
    own = normed(t, [by_head(part, block.heads) for part in own], (block.q_norm, block.k_norm), around)
    for i in range(2):
        turned = rotated(f.narrow(own[i], 1, size), around.scene.rotary)
        own[i] = f.cat((turned, f.narrow(own[i], 1, rest)), 1)
        del turned
    out = attended_under_mask(own, (around.scene.mask,))
    del row
    return out
