"""PRX: fused projections, the text's keys and values before the image's (diffusers, transformer_prx.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.diffusion import ModulatedBlock
from memcalc.blocks.hidream import PatchTurns
from memcalc.blocks.joint import JointAttention
from memcalc.tape import functions as f
from memcalc.tape.hf.dit import text, through, vectors
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(PatchTurns)
def patch_turns(t: Tape, block: PatchTurns, x: Value, around: Around) -> Value:
    """get_image_ids and PRXEmbedND.forward: [batch, 1, tokens, pairs, 2, 2] in fp32."""
    batch, tokens = x.shape[:2]
    around.named.append(t.new((batch, tokens, 2), "fp32"))  # img_ids
    tables = []
    for dim in block.axes:
        wide = t.new((batch, tokens, dim // 2, 2, 2), "fp64")
        tables.append(f.to(wide, "fp32"))
        del wide
    around.scene.turning = f.unsqueeze(f.cat(tables, 2), 1)
    around.scene.mask = t.given(text(around).shape[:2], "bool", ".attention_mask")
    return x


@rule(ModulatedBlock, "prx")
def layer(t: Tape, block: ModulatedBlock, x: Value, around: Around) -> Value:
    """PRXBlock.forward."""
    assert block.modulation  # noqa: S101 - it has its own
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = vectors(t, block.modulation, x, around)
    first, second = block.norms
    y = f.add(f.mul(f.shift(scale), run(t, first, x, around)), shift)
    attended = run(t, block.mixer, y, around)
    x = f.add(x, f.mul(gate, attended))
    z = f.add(f.mul(f.shift(scale_mlp), run(t, second, x, around)), shift_mlp)
    out = f.add(x, f.mul(gate_mlp, through(t, block.feed, z, around)))
    del y, z, attended
    return out


@rule(JointAttention, "prx")
def attention(t: Tape, block: JointAttention, x: Value, around: Around) -> Value:
    """PRXAttnProcessor2_0.__call__: the text has keys and values alone, which are not rotated."""
    whole = run(t, block.q, x, around)
    q, k, v = parts(whole, 3, block.heads)
    q = run(t, block.q_norm, q, around)
    k = run(t, block.k_norm, k, around)
    (into,), (norm,) = block.context, block.context_norms
    beside = run(t, into, text(around), around)
    text_k, text_v = parts(beside, 2, block.heads)
    text_k = run(t, norm, text_k, around)
    q = turned(q, around.scene.turning)
    k = turned(k, around.scene.turning)
    keys, values = f.cat((text_k, k), 2), f.cat((text_v, v), 2)
    shown = t.new(x.shape[:2], "bool")
    mask = f.reshape(f.cat((around.scene.mask, shown), 1), x.shape[0], 1, 1, -1)
    out = f.transpose(f.attention(q, keys, values, mask), 1, 2)
    out = run(t, block.out, f.reshape(out, *out.shape[:2], -1), around)
    del whole, q, k, v, beside, text_k, text_v, keys, values, mask, shown
    return out


def parts(x: Value, count: int, heads: int) -> tuple[Value, ...]:
    """Views [batch, heads, tokens, channels] of what one projection yields."""
    batch, length, width = x.shape
    whole = f.permute(f.reshape(x, batch, length, count, heads, width // count // heads), 2, 0, 3, 1, 4)
    return tuple(f.select(whole, 0) for _ in range(count))


def turned(x: Value, table: Value) -> Value:
    """apply_rope: pairs by two by two numbers, in fp32."""
    pairs = f.to(x, "fp32")
    pairs = f.reshape(pairs, *x.shape[:-1], x.shape[-1] // 2, 1, 2)
    first, second = (f.mul(f.select(table, -1), f.select(pairs, -1)) for _ in range(2))
    made = f.add(first, second)
    del first, second
    return f.to(f.reshape(made, *x.shape), x.dtype)
