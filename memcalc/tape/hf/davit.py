"""Florence-2's image tower and projector (modeling_florence2.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.davit import MapLayer, MapNorm, MapTokens
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import eager
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(MapNorm)
def map_norm(t: Tape, block: MapNorm, x: Value, around: Around) -> Value:
    """Florence2VisionConvEmbed.forward."""
    if block.first:
        x = f.permute(run(t, block.norm, f.permute(x, 0, 2, 3, 1), around), 0, 3, 1, 2)
    x = run(t, block.conv, x, around)
    return x if block.first else f.permute(run(t, block.norm, f.permute(x, 0, 2, 3, 1), around), 0, 3, 1, 2)


@rule(MapLayer)
def map_layer(t: Tape, block: MapLayer, x: Value, around: Around) -> Value:
    """Florence2VisionSpatialBlock.forward, Florence2VisionChannelBlock.forward."""
    batch, width, rows, columns = x.shape
    for conv, norm, inner in zip(block.convs, block.norms, (block.mixer, block.mlp), strict=True):
        x = f.add(run(t, conv, x, around), x)
        x = f.transpose(f.reshape(x, batch, width, -1), 1, 2)
        y = run(t, norm, x, around)
        if inner is block.mixer and block.windowed:
            y = f.reshape(y, batch, rows, columns, width)
        y = run(t, inner, y, around)
        y = run(t, block.drop, y, around)
        x = f.add(x, y)
        del y
        x = f.reshape(f.transpose(x, 1, 2), batch, width, rows, columns)
    return x


@rule(Attention, "davit-window")
def window_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Florence2VisionWindowAttention.forward: the map is padded to whole windows, which attend to themselves."""
    batch, rows, columns, width = x.shape
    size = block.window
    high, wide = (-(-n // size) * size for n in (rows, columns))
    x = f.clone(x) if (high, wide) == (rows, columns) else f.pad_both(x, (1, 2), (high, wide))
    x = f.reshape(x, batch, high // size, size, wide // size, size, width)
    y = f.reshape(f.contiguous(f.permute(x, 0, 1, 3, 2, 4, 5)), -1, size * size, width)
    qkv = f.reshape(run(t, block.qkv, y, around), *y.shape[:2], 3, block.heads, -1)
    q, k, v = f.unbind(f.permute(qkv, 2, 0, 3, 1, 4), 0)
    del qkv
    y = attended(t, block, (q, k, v), around)
    y = run(t, block.out, f.reshape(y, -1, size * size, width), around)
    x = f.reshape(y, -1, high // size, wide // size, size, size, width)
    x = f.reshape(f.contiguous(f.permute(x, 0, 1, 3, 2, 4, 5)), -1, high, wide, width)
    x = f.contiguous(f.narrow(f.narrow(x, 1, rows), 2, columns))
    del q, k, v, y  # names of the function
    return f.reshape(x, batch, rows * columns, width)


@rule(Attention, "davit-channel")
def channel_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Florence2VisionChannelAttention.forward: every channel of a group attends to its others, over all tokens."""
    batch, tokens, width = x.shape
    qkv = f.reshape(run(t, block.qkv, x, around), batch, tokens, 3, block.heads, -1)
    q, k, v = f.unbind(f.permute(qkv, 2, 0, 3, 4, 1), 0)
    del qkv
    y = attended(t, block, (q, k, v), around)
    y = f.reshape(f.permute(y, 0, 3, 2, 1), batch, tokens, width)
    y = run(t, block.out, y, around)
    del q, k, v  # names of the function
    return y


def attended(t: Tape, block: Attention, qkv: tuple[Value, Value, Value], around: Around) -> Value:
    """The attention interface: heads and rows exchanged, as a copy."""
    if t.setting.attention == "eager":
        out = eager(t, block, *qkv, None, around)
        around.weights = None
        return out
    return f.contiguous(f.transpose(f.attention(*qkv), 1, 2))


@rule(MapTokens)
def map_tokens(t: Tape, block: MapTokens, x: Value, around: Around) -> Value:
    """Florence2MultiModalProjector.forward."""
    batch, width, rows, columns = x.shape
    x = f.add(x, places(t, block, (batch, rows, columns)))
    tokens = f.transpose(f.reshape(x, batch, width, -1), 1, 2)
    seen = f.unsqueeze(f.add(tokens, t.weight("visual_temporal_embed.pos_idx_to_embed", (1, width))), 1)
    spatial, temporal = f.mean(seen, 2, keep=False), f.mean(seen, 1, keep=False)
    y = f.cat((spatial, temporal), 1)
    y = run(t, block.project, y, around)
    y = run(t, block.norm, y, around)
    del tokens, seen, spatial, temporal  # names of the function
    return y


def places(t: Tape, block: MapTokens, shape: tuple[int, int, int]) -> Value:
    """Florence2VisionLearnedAbsolutePositionEmbedding2D.forward: [batch, width, rows, columns]."""
    (batch, rows, columns), half = shape, block.width // 2
    across, down = t.new((columns,), "int64"), t.new((rows,), "int64")
    rest = block.width - half
    x = f.embedding(across, t.weight("image_position_embed.column_embeddings.weight", (block.places, rest)))
    y = f.embedding(down, t.weight("image_position_embed.row_embeddings.weight", (block.places, half)))
    both = f.cat((f.repeat(f.unsqueeze(x, 0), rows), f.repeat(f.unsqueeze(y, 1), columns, 1)))
    return f.repeat(f.unsqueeze(f.permute(both, 2, 0, 1), 0), batch)
