"""Swin: attention within windows of a map, shifted in every second layer, and the maps merged between stages."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Sequence
from memcalc.blocks.image import BiasedLayer, KeptMap, MergeNeighbours, SharedBias, WindowLayer
from memcalc.blocks.mlp import Mlp
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.hf.attention import eager, heads, project
from memcalc.tape.hf.feed_forward import closed, opened
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(WindowLayer)
def window_layer(t: Tape, block: WindowLayer, x: Value, around: Around) -> Value:
    """SwinLayer.forward, and Swinv2Layer.forward, which norms behind each branch."""
    before, behind = (None, block.norms[0]) if block.behind else (block.norms[0], None)
    held, back = attention_of_windows(t, block, _maybe(t, before, x, around), around)
    y = _maybe(t, behind, back, around)
    if block.behind:  # what is normed has the padded map's name
        del held[0]
    y = f.add(x, _maybe(t, block.drop_path, y, around))
    if not block.behind:
        del held[0]
    before, behind = (None, block.norms[1]) if block.behind else (block.norms[1], None)
    out = _maybe(t, block.dropout, fed(t, block, [_maybe(t, before, y, around)], around), around)
    around.handed.clear()
    yielded = out
    out = _maybe(t, behind, out, around)
    if block.behind:
        out = _maybe(t, block.drop_path, out, around)
    out = f.add(out, y)
    del held, back, yielded  # local to the layer
    return out


def fed(t: Tape, block: WindowLayer, given: list[Value], around: Around) -> Value:
    """The feed-forward; where its halves are modules of the layer, what the first is given goes with it (DonutSwinLayer)."""
    assert block.mlp  # noqa: S101 - every layer has one
    first, *rest = block.mlp.parts() if block.mlp.__class__ is Sequence and not block.mlp.name else (block.mlp,)
    if isinstance(first, Mlp) and first.down and "." in first.down.name:
        x = closed(t, first, opened(t, first, given, around), around)
    else:
        x = run(t, first, given.pop(), around)
    for part in rest:
        x = run(t, part, x, around)
    return x


def _maybe(t: Tape, block: Block | None, x: Value, around: Around) -> Value:
    return run(t, block, x, around) if block else x


def attention_of_windows(t: Tape, block: WindowLayer, x: Value, around: Around) -> tuple[list[Value | None], Value]:
    """Tokens as a map, padded, shifted and cut into windows; and all of that undone behind the attention.

    What the layer still names then comes first: the padded map, the windows, their mask, what they attended to.
    """
    batch, width = x.shape[0], x.shape[-1]
    (rows, columns), size = block.map, block.size
    high, wide = (-(-n // size) * size for n in block.map)
    x = (
        f.clone(f.view(x, batch, rows, columns, width))
        if (high, wide) == block.map
        else padded(x, block.map, (high, wide))
    )
    rolled = f.roll(x) if block.shifted else x
    windows = cut(rolled, size)
    kept = [rolled] if block.named else []  # Swinv2Layer has names for them
    del rolled
    mask = shift_mask(t, high, wide, size, x.dtype) if block.shifted else None
    inner = around.copy()
    inner.masks = {0: mask}
    out = _maybe(t, None if block.behind else block.dropout, _maybe(t, block.mixer, windows, inner), around)
    back = joined(f.view(out, -1, size, size, width), batch, high, wide)
    if block.shifted:
        kept += [back] if block.named else []
        back = f.roll(back)
    if (high, wide) != block.map:
        back = f.contiguous(f.narrow(f.narrow(back, 1, rows), 2, columns))
    return [x, windows, mask, out, *kept], f.view(back, batch, rows * columns, width)


def padded(x: Value, given: tuple[int, int], size: tuple[int, int]) -> Value:
    """nn.functional.pad to multiples of a window."""
    x = f.view(x, x.shape[0], *given, x.shape[-1])
    return f.pad(x, 1, size[0] - given[0]) if size[1] == given[1] else f.pad_both(x, (1, 2), size)


def cut(x: Value, size: int) -> Value:
    """window_partition: [batch · windows, size², width]."""
    batch, rows, columns, width = x.shape
    x = f.view(x, batch, rows // size, size, columns // size, size, width)
    return f.view(f.contiguous(f.transpose(x, 2, 3)), -1, size * size, width)


def joined(x: Value, batch: int, rows: int, columns: int) -> Value:
    """window_reverse: [batch, rows, columns, width]."""
    size, width = x.shape[1], x.shape[-1]
    x = f.view(x, batch, rows // size, columns // size, size, size, width)
    return f.view(f.contiguous(f.transpose(x, 2, 3)), batch, rows, columns, width)


def shift_mask(t: Tape, rows: int, columns: int, size: int, dtype: str) -> Value:
    """SwinLayer.get_attn_mask: which tokens of a window were neighbours before the shift: [windows, size², size²]."""
    held = [t.new((n,), "int64") for n in (rows, columns, rows, columns)]
    regions = t.new((1, rows, columns, 1), "int64")
    regions = f.to(regions, dtype)
    windows = f.view(cut(regions, size), -1, size * size)
    mask = f.subtract(f.unsqueeze(windows, 1), f.unsqueeze(windows, 2))
    filled = f.masked_fill(f.masked_fill(mask, f.compare(mask)), f.compare(mask))
    del held, mask
    return filled


@rule(Attention, "swin")
def swin(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """SwinAttention.forward: a learned bias of relative positions, and the mask of the shift, as one mask."""
    shift = around.masks.get(0)
    q, k, v = (heads(run(t, part, x, around), block.heads) for part in (block.q, block.k, block.v) if part)
    mask = relative_bias(t, block, x.shape[1])
    if shift is not None:
        shift = over_batch(shift, x.shape[0])
        mask = f.add(mask, shift)
    if t.setting.attention == "eager":
        out = eager(t, block, q, k, v, mask, around)
    else:
        out = f.contiguous(f.transpose(f.attention(q, k, v, mask, block.dropout), 1, 2))
    return project(t, block, out, around)


@rule(Attention, "donut-swin")
def donut_swin(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """DonutSwinSelfAttention.forward: the bias and the shift's mask are added one after the other."""
    q, k, v = (heads(run(t, part, x, around), block.heads) for part in (block.q, block.k, block.v) if part)
    scores = f.scale(f.matmul(q, f.swap(k)))
    bias = relative_bias(t, block, x.shape[1])
    scores = f.add(scores, bias)
    mask = around.masks.get(0)
    if mask is not None:
        shape, mask = scores.shape, f.unsqueeze(f.unsqueeze(mask, 1), 0)
        scores = f.reshape(f.add(f.reshape(scores, -1, mask.shape[1], *shape[1:]), mask), *shape)
    weights = f.dropout(f.softmax(scores), block.dropout)
    out = f.contiguous(f.transpose(f.matmul(weights, v), 1, 2))
    del q, k, v, bias, scores, weights
    return project(t, block, out, around)


@rule(Attention, "swinv2")
def swinv2(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Swinv2SelfAttention.forward: cosines times a learned scale, biases from a small network, the shift's mask twice."""
    q, k, v = (heads(run(t, part, x, around), block.heads) for part in (block.q, block.k, block.v) if part)
    units = unit(q), unit(k)  # there until the product is, also where autocast makes others of them
    scores = f.matmul(units[0], f.swap(units[1]))
    del units
    raw, network = block.before
    scale = f.exp(f.clamp(t.weight(raw.name, (block.heads, 1, 1))))
    scores = f.mul(scores, scale)
    scores = f.add(scores, network_bias(t, network, block.heads, x.shape[1], around))
    mask = around.masks.get(0)
    if mask is not None:
        shape, mask = scores.shape, f.unsqueeze(f.unsqueeze(mask, 1), 0)
        scores = f.reshape(scores, -1, mask.shape[1], *shape[1:])
        scores = f.add(scores, mask)
        scores = f.add(scores, mask)
        scores = f.reshape(scores, *shape)
    weights = f.dropout(f.softmax(scores), block.dropout)
    out = f.contiguous(f.transpose(f.matmul(weights, v), 1, 2))
    del q, k, v, scale, scores, weights
    return project(t, block, out, around)


def unit(x: Value) -> Value:
    """F.normalize: x / max(its length, a small number)."""
    x = f.upper(x)
    return f.div(x, f.clamp(f.vector_norm(x, -1)))


def network_bias(t: Tape, network: Block, count: int, area: int, around: Around) -> Value:
    """Biases [1, heads, area, area] that a network makes of distances, read by a fixed index, through a sigmoid."""
    side = isqrt(area)
    distances = t.given(((2 * side - 1) ** 2, 2), t.setting.weights, "relative_coords_table")
    where = t.given((area * area,), "int64", "relative_position_index")
    table = run(t, network, distances, around)
    bias = f.reshape(f.index(table, where, (area * area, count)), area, area, count)
    return f.unsqueeze(f.scale(f.sigmoid(f.contiguous(f.permute(bias, 2, 0, 1)))), 0)


def relative_bias(t: Tape, block: Attention, area: int) -> Value:
    """SwinRelativePositionBias.forward: [1, heads, size², size²], read from a table by a fixed index.

    Which may be among the tensors that a checkpoint has (Donut's, CLAP's).
    """
    table, *kept = block.before
    count = (area * area,)
    where = t.weight(kept[0].name, count) if kept else t.given(count, "int64", "relative_position_index")
    bias = f.index(t.weight(table.name, table.shape), where, (area * area, block.heads))  # type: ignore[attr-defined]
    return f.unsqueeze(f.contiguous(f.permute(f.view(bias, area, area, block.heads), 2, 0, 1)), 0)


def over_batch(mask: Value, windows: int) -> Value:
    """The mask of one image's windows, for those of every image: [batch · windows, 1, size², size²]."""
    count, area, _ = mask.shape
    mask = f.unsqueeze(f.unsqueeze(mask, 1), 0)
    return f.reshape(f.expand(mask, windows // count, count, 1, area, area), -1, 1, area, area)


@rule(MergeNeighbours)
def merge_neighbours(_: Tape, block: MergeNeighbours, x: Value, around: Around) -> Value:
    """SwinPatchMerging: every second row and column, side by side; elsewhere a view of neighbours (Qwen2-VL's merger)."""
    if block.shuffled:
        return loosely_shuffled(x, block.factor) if block.loose else shuffled(x, block.factor)
    if not block.map:
        return f.reshape(x, -1, x.shape[-1] * block.factor**2)
    batch, width = x.shape[0], x.shape[-1]
    rows, columns = block.map
    around.handed.append(x)  # hidden_states_before_downsampling of SwinStage.forward
    x = f.view(x, batch, rows, columns, width)
    if rows % 2 or columns % 2:
        x = f.pad_both(x, (1, 2), (rows + rows % 2, columns + columns % 2))
    parts = [f.narrow(f.narrow(x, 1, x.shape[1] // 2), 2, x.shape[2] // 2) for _ in range(4)]
    return f.view(f.cat(parts), batch, -1, 4 * width)


def shuffled(x: Value, factor: int) -> Value:
    """InternVLModel.pixel_shuffle: two copies, each `factor` times as wide as what it was made of."""
    batch, tokens, width = x.shape
    side = isqrt(tokens)
    x = f.reshape(x, batch, side, side // factor, width * factor)
    x = f.contiguous(f.permute(x, 0, 2, 1, 3))
    x = f.view(x, batch, side // factor, side // factor, width * factor**2)
    x = f.contiguous(f.permute(x, 0, 2, 1, 3))
    return f.reshape(x, batch, -1, width * factor**2)


def loosely_shuffled(x: Value, factor: int) -> Value:
    """AyaVisionMultiModalProjector.pixel_shuffle: one copy, seen as [batch, rows, columns, channels]."""
    batch, tokens, width = x.shape
    side = isqrt(tokens)
    x = f.reshape(x, batch, side, side // factor, width * factor)
    x = f.reshape(f.permute(x, 0, 2, 1, 3), batch, side // factor, side // factor, width * factor**2)
    return f.permute(x, 0, 2, 1, 3)


@rule(KeptMap)
def kept_map(_: Tape, block: KeptMap, x: Value, around: Around) -> Value:
    """SwinStage.get_reshaped_hidden_states: a copy of the stage's output as a map, there until the next stage's is."""
    batch, width = x.shape[0], x.shape[-1]
    around.kept = f.contiguous(f.permute(f.view(x, batch, *block.map, width), 0, 3, 1, 2))
    around.handed.clear()
    return x


@rule(BiasedLayer)
def biased_layer(t: Tape, block: BiasedLayer, x: Value, around: Around) -> Value:
    """BeitLayer.forward: the biases, made anew by every layer, are its mask."""
    before, around.masks = around.masks, {0: beit_bias(t, block, x)}
    for part in block.blocks:
        x = run(t, part, x, around)
    around.masks = before
    return x


@rule(SharedBias)
def shared_bias(t: Tape, block: SharedBias, x: Value, around: Around) -> Value:
    """BeitModel.forward: one tensor of biases for all layers."""
    around.masks, around.ready = {0: beit_bias(t, block, x)}, True
    return x


def beit_bias(t: Tape, block: BiasedLayer, x: Value) -> Value:
    """BeitRelativePositionBias.forward: the table resampled, three rows for the class token, read by a fixed index."""
    assert block.table  # noqa: S101 - such a layer has one
    raw, before = block.table.blocks[0], t.path
    t.path = f"{before}.{block.table.name}" if before else block.table.name
    table = t.weight(raw.name, raw.shape)  # type: ignore[attr-defined]
    t.path = before
    (distances, heads), tokens = table.shape, x.shape[1]
    rows, columns = (2 * size - 1 for size in block.map)
    map_of = f.permute(f.reshape(f.narrow(table, 0, distances - 3), 1, columns, rows, heads), 0, 3, 1, 2)
    resampled = maps.interpolate(map_of, (rows, columns))
    resampled = f.reshape(f.permute(resampled, 0, 2, 3, 1), distances - 3, heads)
    whole = f.cat((resampled, f.narrow(table, 0, 3)), 0)
    bias = f.index(whole, t.given((tokens * tokens,), "int64", ".relative_position_index"), (tokens * tokens, heads))
    return f.unsqueeze(f.contiguous(f.permute(f.reshape(bias, tokens, tokens, heads), 2, 0, 1)), 0)
