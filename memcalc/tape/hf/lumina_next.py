"""Lumina-Next: attention to the image and to its caption, summed before one projection (diffusers, lumina_nextdit2d.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.attention import Attention
from memcalc.blocks.diffusion import ModulatedBlock
from memcalc.blocks.streams import MeanCaption
from memcalc.tape import functions as f
from memcalc.tape.hf.dit import by_head, normed, text, through, vectors
from memcalc.tape.hf.lumina import repeated, turned
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(MeanCaption)
def mean_caption(t: Tape, block: MeanCaption, x: Value, around: Around) -> Value:
    """LuminaPatchEmbed's mask and table, and LuminaCombinedTimestepCaptionEmbedding.forward behind its time step."""
    scene, states, (batch, tokens) = around.scene, text(around), x.shape[:2]
    whole = t.given((block.side, block.side, block.dim), "fp32", ".image_rotary_emb")
    table = whole if scene.sizes[-1][1] == block.side else t.new((1, tokens, block.dim), "fp32")
    around.named.append(t.new((batch, tokens), "int32"))
    t.given(states.shape[:2], "int64", ".encoder_mask")
    weights = t.new((*states.shape[:2], 1), "fp32")
    pooled = f.div(f.total(f.mul(states, weights), 1), t.new((batch, 1), "fp32"))
    made = f.to(pooled, states.dtype)
    for part in block.blocks:
        made = run(t, part, made, around)
    del pooled, weights
    scene.vector, scene.tables = f.add(scene.vector, made), {tokens: table}
    scene.mask = t.new(states.shape[:2], "bool")
    return x


@rule(ModulatedBlock, "lumina-next")
def layer(t: Tape, block: ModulatedBlock, x: Value, around: Around) -> Value:
    """LuminaNextDiTBlock.forward."""
    assert block.modulation and block.table  # noqa: S101, PT018 - it has both
    first, second, third, fourth, of_text = block.norms
    scale, gate, scale_mlp, gate_mlp = vectors(t, block.modulation, x, around)
    y = f.mul(run(t, first, x, around), f.shift(scale))
    own, context = run(t, block.mixer, y, around), text(around)
    around.encoder = z = run(t, of_text, context, around)
    crossed, around.encoder = run(t, block.cross, y, around), context
    learned = f.reshape(f.tanh(t.weight(block.table.name, block.table.shape)), 1, 1, -1, 1)
    crossed = f.mul(crossed, learned)
    mixed = f.add(own, crossed)
    mixed = f.reshape(mixed, *mixed.shape[:2], -1)
    cross = cast("Attention", block.cross)
    with inside(t, cross):
        attended = [run(t, cross.out, mixed, around)]
    gate = f.tanh(gate)
    x = f.add(x, f.mul(gate, run(t, second, attended[0], around)))
    attended.clear()
    fed = through(t, block.feed, f.mul(run(t, third, x, around), f.shift(scale_mlp)), around)
    gate_mlp = f.tanh(gate_mlp)
    out = f.add(x, f.mul(gate_mlp, run(t, fourth, fed, around)))
    del y, z, own, crossed, mixed, fed
    return out


@rule(Attention, "lumina-next")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """LuminaAttnProcessor2_0: [batch, tokens, heads, channels]; the caption's keys are not rotated."""
    read = text(around) if block.cross else x
    own = [run(t, block.q, x, around), run(t, block.k, read, around), run(t, block.v, read, around)]
    dtype, table = own[0].dtype, around.scene.tables[x.shape[1]]
    own = normed(t, own, (block.q_norm, block.k_norm), around)
    own = [by_head(part, count) for part, count in zip(own, (block.heads, block.kv_heads, block.kv_heads), strict=True)]
    for i in range(1 if block.cross else 2):
        own[i] = turned(own[i], table)
    own[:2] = (f.to(part, dtype) for part in own[:2])
    for i in (1, 2):
        own[i] = repeated(own[i], block.heads // block.kv_heads)
    seen = around.scene.mask if block.cross else t.new(x.shape[:2], "bool")
    batch, length = seen.shape
    mask = f.expand(f.reshape(seen, batch, 1, 1, length), -1, block.heads, x.shape[1], -1)
    q, k, v = (f.transpose(part, 1, 2) for part in own)
    return f.to(f.transpose(f.attention(q, k, v, mask), 1, 2), dtype)
