"""Lumina-Image 2: sandwich norms and tanh gates, refiners of text and image, then one row (transformer_lumina2.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.diffusion import ModulatedBlock
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.streams import SampleRows, SampleTables
from memcalc.tape import functions as f
from memcalc.tape.hf.dit import by_head, normed, text, through, vectors
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(SampleTables)
def sample_tables(t: Tape, block: SampleTables, x: Value, around: Around) -> Value:
    """Lumina2RotaryPosEmbed.forward: complex numbers of double precision for text, image and both in one row."""
    batch, length, scene = x.shape[0], text(around).shape[1], around.scene
    tokens = x.shape[1] + length
    positions = t.new((batch, tokens, 3), "int32")
    parts = []
    for dim in block.axes:
        index = t.new((batch, tokens, dim // 2), "int64")
        parts.append(t.new((batch, tokens, dim), "fp64"))
        del index
    row = f.cat(parts)
    parts.clear()
    del positions
    tables = (t.new((batch, size, row.shape[-1]), "fp64") for size in (length, x.shape[1]))
    scene.tables = {table.shape[1]: table for table in (*tables, row)}
    return x


@rule(SampleRows)
def sample_rows(t: Tape, block: SampleRows, x: Value, around: Around) -> Value:
    """Text and image of every sample put into one row of zeros; or (`back`) the image's part cut out of each."""
    if block.back:
        size = x.shape[1] - around.scene.image
        return f.stack([f.narrow(f.select(x, 0), 0, size) for _ in range(x.shape[0])])
    context = text(around)
    around.scene.image = context.shape[1]
    row = t.new((x.shape[0], context.shape[1] + x.shape[1], x.shape[2]), x.dtype)
    for _ in range(x.shape[0]):
        row = f.assign(row, f.select(context, 0))
        row = f.assign(row, f.select(x, 0))
    around.named += context, row
    around.encoder = None
    return row


@rule(ModulatedBlock, "lumina")
def layer(t: Tape, block: ModulatedBlock, x: Value, around: Around) -> Value:
    """Lumina2TransformerBlock.forward."""
    first, second, third, fourth = block.norms
    own = vectors(t, block.modulation, x, around) if block.modulation else []
    y = run(t, first, x, around)
    y = f.mul(y, f.shift(own[0])) if own else y
    attended = run(t, block.mixer, y, around)
    gate = f.tanh(own[1]) if own else None
    x = f.add(x, gated(run(t, second, attended, around), gate))
    made = [run(t, third, x, around)]
    fed = through(t, block.feed, f.mul(made.pop(), f.shift(own[2])) if own else made.pop(), around)
    gate = f.tanh(own[3]) if own else None
    out = f.add(x, gated(run(t, fourth, fed, around), gate))
    del y, attended, fed
    return out


def gated(x: Value, gate: Value | None) -> Value:
    """tanh(gate) * x, where there is a gate."""
    return x if gate is None else f.mul(gate, x)


@rule(Attention, "lumina")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Lumina2AttnProcessor2_0: keys and values repeated for every query head."""
    own = [run(t, part, x, around) for part in (block.q, block.k, block.v) if part]
    own = [by_head(part, count) for part, count in zip(own, (block.heads, block.kv_heads, block.kv_heads), strict=True)]
    dtype = own[0].dtype
    own = normed(t, own, (block.q_norm, block.k_norm), around)
    table = around.scene.tables[x.shape[1]]
    for i in range(2):
        own[i] = turned(own[i], table)
    own[:2] = (f.to(part, dtype) for part in own[:2])
    for i in (1, 2):
        own[i] = repeated(own[i], block.heads // block.kv_heads)
    for i, part in enumerate(own):
        own[i] = f.transpose(part, 1, 2)
    q, k, v = own
    out = f.transpose(f.attention(q, k, v), 1, 2)
    out = f.to(f.reshape(out, *out.shape[:2], -1), q.dtype)
    return run(t, block.out, out, around)


def turned(x: Value, table: Value) -> Value:
    """apply_rotary_emb(use_real=False): pairs as complex numbers times those of the table, cast back."""
    return f.to(f.mul(f.to_contiguous(x, "fp32"), f.unsqueeze(table, 2)), x.dtype)


def repeated(x: Value, times: int) -> Value:
    """x.unsqueeze(3).repeat(1, 1, 1, times, 1).flatten(2, 3): a copy, even of one."""
    if times == 1:
        return f.clone(x)
    return f.reshape(f.repeat(f.unsqueeze(x, 3), times, 3), *x.shape[:2], -1, x.shape[-1])


@rule(Mlp, "lumina")
def feed_forward(t: Tape, block: Mlp, x: Value, around: Around) -> Value:
    """LuminaFeedForward.forward: the gate is activated in fp32."""
    gate = run(t, block.gate, x, around)
    gate = f.to(f.silu(f.to(gate, "fp32")), gate.dtype)
    return run(t, block.down, f.mul(gate, run(t, block.up, x, around)), around)
