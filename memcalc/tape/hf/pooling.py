"""Image models of convolutions and light attention: PoolFormer, PVT, MobileViT 2, DINOv3's ConvNeXt."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.attention import Attention
from memcalc.blocks.pooling import (
    KeptTokens,
    LinearMixer,
    MapScale,
    MeanToken,
    PoolMixer,
    Pyramid,
    StretchedPositions,
    TokenPool,
    Unfold,
)
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.hf.attention import heads, project
from memcalc.tape.hf.layers import under_name
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Stack
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Pyramid)
def pyramid(t: Tape, block: Pyramid, x: Value, around: Around) -> Value:
    """PvtEncoder.forward, PoolFormerEncoder.forward."""
    around.ready, held = True, [x]
    del x
    for stage in block.blocks:
        begin, layers, *rest = stage.parts()
        held = [run(t, begin, held.pop(), around)]
        held = [under_name(t, cast("Stack", layers), held, around)]
        for part in rest:
            held = [run(t, part, held.pop(), around)]
    return held.pop()


@rule(PoolMixer)
def pool_mixer(_: Tape, block: PoolMixer, x: Value, around: Around) -> Value:
    """PoolFormerPooling.forward."""
    return f.subtract(maps.average_pool(x, x.shape[2:]), x)


@rule(MapScale)
def map_scale(t: Tape, block: MapScale, x: Value, around: Around) -> Value:
    """layer_scale.unsqueeze(-1).unsqueeze(-1) * x."""
    return f.mul(f.unsqueeze(f.unsqueeze(t.weight("", block.shape), -1), -1), x)


@rule(StretchedPositions)
def stretched_positions(t: Tape, block: StretchedPositions, x: Value, around: Around) -> Value:
    """PvtPatchEmbeddings.interpolate_pos_encoding, and the sum."""
    table, (rows, columns), width = t.weight("", block.shape), block.map, x.shape[-1]
    own = f.narrow(table, 1, rows * columns)
    seen = f.permute(f.reshape(own, 1, rows, columns, width), 0, 3, 1, 2)
    made = f.permute(f.reshape(maps.interpolate(seen, block.map), 1, width, -1), 0, 2, 1)
    if block.prefix:
        made = f.cat((f.narrow(table, 1, block.prefix), made), 1)
    return f.add(x, made)


@rule(MeanToken)
def mean_token(_: Tape, block: MeanToken, x: Value, around: Around) -> Value:
    """DINOv3ConvNextModel.forward."""
    mean = f.transpose(f.reshape(f.mean(x, 2, 3), *x.shape[:2], 1), 1, 2)
    return f.cat((mean, f.transpose(f.reshape(x, *x.shape[:2], -1), 1, 2)), 1)


@rule(KeptTokens)
def kept_tokens(t: Tape, block: KeptTokens, x: Value, around: Around) -> Value:
    """PvtV2Encoder.forward: hidden_states of the layer's outputs as a map."""
    around.kept = x
    rows, columns = around.scene.sizes.pop()
    return f.contiguous(f.permute(f.reshape(x, x.shape[0], rows, columns, -1), 0, 3, 1, 2))


@rule(Attention, "pvt", "pvt_v2")
def reduced_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """PvtEfficientSelfAttention.forward, PvtV2SelfAttention.forward, which projects its output before its names go."""
    q, read = heads(run(t, block.q, x, around), block.heads), x
    for part in block.before:
        read = run(t, part, read, around)
    k, v = (heads(run(t, part, read, around), block.heads) for part in (block.k, block.v))
    scores = f.scale(f.matmul(q, f.swap(k)))
    probabilities = f.dropout(f.softmax(scores), block.dropout)
    if block.formula == "pvt_v2":
        out = f.transpose(f.matmul(probabilities, v), 1, 2)
        return project(t, block, f.reshape(out, *out.shape[:2], -1), around)
    out = f.contiguous(f.transpose(f.matmul(probabilities, v), 1, 2))
    del q, k, v, scores, probabilities, read
    return project(t, block, out, around)


@rule(LinearMixer)
def linear_mixer(t: Tape, block: LinearMixer, x: Value, around: Around) -> Value:
    """MobileViTV2LinearSelfAttention.forward."""
    query, key, value = f.split(run(t, block.qkv, x, around), (1, block.width, block.width), 1)
    scores = f.dropout(f.softmax(query), block.dropout)
    context = f.mul(key, scores)
    context = f.total(context, -1, keep=True)
    out = f.mul(f.relu(value), f.expand(context, *value.shape))
    return run(t, block.out, out, around)


@rule(Unfold)
def unfold(_: Tape, block: Unfold, x: Value, around: Around) -> Value:
    """MobileViTV2Layer.unfolding and folding."""
    area = block.patch**2
    if block.back:
        size: tuple[int, int] = around.scene.map
        return maps.fold(f.reshape(x, x.shape[0], x.shape[1] * area, -1), (*x.shape[:2], *size))
    batch, channels, rows, columns = x.shape
    around.scene.map = (rows, columns)
    squares = (rows // block.patch) * (columns // block.patch)
    return f.reshape(maps.unfold(x, (batch, channels * area, squares)), batch, channels, area, squares)


@rule(TokenPool)
def token_pool(t: Tape, block: TokenPool, x: Value, around: Around) -> Value:
    """Aimv2AttentionPoolingHead.forward."""
    to_key, to_value, to_out = block.blocks
    batch, _, width = x.shape
    token = f.expand(t.weight("cls_token", block.token), batch, 1, width)
    k, v = heads(run(t, to_key, x, around), block.heads), heads(run(t, to_value, x, around), block.heads)
    found = f.attention(heads(token, block.heads), k, v)
    found = f.reshape(f.transpose(found, 1, 2), batch, 1, width)
    return run(t, to_out, f.mean(found, 1, keep=False), around)
