"""Attention along time and within frames by turns (modeling_timesformer.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.attention import Attention
from memcalc.blocks.space_time import FrameEmbeddings, SpaceTimeLayer
from memcalc.tape import functions as f
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.basic import Raw
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(FrameEmbeddings)
def frame_embeddings(t: Tape, block: FrameEmbeddings, x: Value, around: Around) -> Value:
    """TimesformerEmbeddings.forward: [batch, 1 + patches * frames, width]."""
    batch, frames = x.shape[0], block.frames
    x = run(t, block.cut, f.reshape(x, batch * frames, x.shape[1], *x.shape[3:]), around)
    token, places = (t.weight(f".{t.path}.{raw.name}", raw.shape) for raw in _raws(block)[:2])
    x = f.cat((f.expand(token, x.shape[0], -1, -1), x), 1)
    x = run(t, block.dropout, f.add(x, places), around)
    if block.times is None:
        return x
    first = f.unsqueeze(f.select(f.narrow(x, 0, batch), 1), 1)
    x = f.narrow(x, 1, x.shape[1] - 1)
    patches, width = x.shape[1:]
    x = f.permute(f.reshape(x, batch, frames, patches, width), 0, 2, 1, 3)
    x = f.reshape(x, batch * patches, frames, width)
    times = t.weight(f".{t.path}.{block.times.name}", (1, frames, width))
    x = run(t, block.dropout, f.add(x, times), around)
    return f.cat((first, f.reshape(x, batch, patches * frames, width)), 1)


def _raws(block: FrameEmbeddings) -> list[Raw]:
    return [cast("Raw", raw) for raw in (block.token, block.places, block.times)]


@rule(SpaceTimeLayer)
def space_time_layer(t: Tape, block: SpaceTimeLayer, x: Value, around: Around) -> Value:
    """TimesformerLayer.forward, where attention is divided."""
    batch, tokens, width = x.shape
    frames, patches = block.frames, (tokens - 1) // block.frames
    along = f.reshape(f.narrow(x, 1, tokens - 1), batch * patches, frames, width)
    first_mixed = run(t, block.time_mixer, run(t, block.time_norm, along, around), around)
    timed = f.reshape(run(t, block.drop_path, first_mixed, around), batch, patches * frames, width)
    timed = run(t, block.time_project, timed, around)
    along = f.add(f.narrow(x, 1, tokens - 1), timed)
    first = f.unsqueeze(f.select(x, 1), 1)
    token = f.reshape(f.repeat(first, frames, 1), batch * frames, 1, width)
    within = f.permute(f.reshape(along, batch, patches, frames, width), 0, 2, 1, 3)
    within = f.reshape(within, batch * frames, patches, width)
    within = f.cat((token, within), 1)
    mixed = run(t, block.mixer, run(t, block.norm, within, around), around)
    back = run(t, block.drop_path, mixed, around)
    token = f.mean(f.reshape(f.select(back, 1), batch, frames, width), 1)
    back = f.reshape(f.narrow(back, 1, patches), batch, frames, patches, width)
    back = f.reshape(f.permute(back, 0, 2, 1, 3), batch, patches * frames, width)
    x = f.add(f.cat((first, along), 1), f.cat((token, back), 1))
    out = run(t, block.drop_path, run(t, block.mlp, x, around), around)
    out = f.add(x, out)
    del first_mixed, mixed, timed, along, within, back  # names of the function
    return out


@rule(Attention, "timesformer")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """TimesformerSelfAttention.forward, never fused; then its output's projection."""
    b, s, width = x.shape
    qkv = f.reshape(run(t, block.qkv, x, around), b, s, 3, block.heads, block.head_dim)
    qkv = f.permute(qkv, 2, 0, 3, 1, 4)
    q, k, v = (f.select(qkv, 0) for _ in range(3))
    scores = f.scale(f.matmul(q, f.swap(k)))
    scores = f.softmax(scores)
    scores = f.dropout(scores, block.dropout)
    context = f.reshape(f.transpose(f.matmul(scores, v), 1, 2), b, s, width)
    del q, k, v, qkv, scores
    return f.dropout(run(t, block.out, context, around), block.out_dropout)
