"""Mask2Former: a pixel decoder of several maps, queries that attend within the masks they foretell (modeling_mask2former.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.attention import Attention
from memcalc.blocks.masking import MapBefore, MaskedLayer, WindowPyramid
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.hf.deformable_detr import sinusoids, with_levels
from memcalc.tape.hf.diffusion import Scene
from memcalc.tape.hf.layers import under_name
from memcalc.tape.hf.mask_losses import criterion
from memcalc.tape.hf.programs import measured
from memcalc.tape.hf.refining import one_of
from memcalc.tape.rules import Around, gone, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block, Sequence, Stack
    from memcalc.blocks.masking import MaskedQueries, MaskSegmenter, PixelDecoder
    from memcalc.model import Model
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

MAP = 4  # axes of a map


def segment(t: Tape, model: Model) -> tuple[Value, Value]:
    """Mask2FormerForUniversalSegmentation.forward; every image has some objects, masks as large as the image."""
    body = cast("MaskSegmenter", model.body)
    t.layers = model.depth
    pixels = measured(t, (t.setting.batch, *model.image))
    states, masks, outputs = _modelled(t, body, pixels)
    gone(t.held)
    classes = [run(t, body.classes, f.transpose(one, 0, 1), Around()) for one in states]
    loss = criterion(t, body, list(zip(masks, classes, strict=True)), (model.objects, *model.image[1:]))
    t.outputs += outputs
    return loss, classes[-1]


def _modelled(t: Tape, body: MaskSegmenter, pixels: Value) -> tuple[list[Value], list[Value], list[Value]]:
    """Mask2FormerModel.forward: the states of all layers, their masks, and what else its output holds."""
    batch, _, *size = pixels.shape
    _mask = t.new((batch, *size), "fp32")
    features = backbone_maps(t, body.backbone, pixels)
    decoder, queries = cast("PixelDecoder", body.pixels), cast("MaskedQueries", body.queries)
    with inside(t, decoder):
        scales, embeddings = _decoded(t, decoder, features)
    with inside(t, queries):
        states, masks = _asked(t, queries, scales, embeddings)
    return states, masks, [*features, *scales, embeddings]


def backbone_maps(t: Tape, backbone: Block | None, pixels: Value) -> list[Value]:
    """The maps that a backbone's stages hand on, the largest first."""
    inner = Around()
    inner.ready = True
    run(t, backbone, pixels, inner)
    return inner.outputs


@rule(WindowPyramid)
def window_pyramid(t: Tape, block: WindowPyramid, x: Value, around: Around) -> Value:
    """SwinBackbone.forward, MaskFormerSwinBackbone.forward: every stage's map, normed as tokens."""
    x = run(t, block.embeddings, x, around)
    found: list[Value] = [x]
    inner = Around()
    inner.ready, inner.outputs = True, found
    x = run(t, block.last, run(t, block.stages, x, inner), inner)
    for one, norm, size in zip(found[1:], block.norms, block.maps, strict=True):
        y = _tokens(one)
        y = f.view(run(t, norm, y, around), y.shape[0], *size, y.shape[-1])
        around.outputs.append(f.contiguous(f.permute(y, 0, 3, 1, 2)))
    return around.outputs[-1]


def _tokens(x: Value) -> Value:
    """A map as tokens, by a copy; tokens as they are."""
    if len(x.shape) < MAP:
        return x
    x = f.contiguous(f.permute(x, 0, 2, 3, 1))
    return f.view(x, x.shape[0], -1, x.shape[-1])


@rule(MapBefore)
def map_before(_: Tape, block: MapBefore, x: Value, around: Around) -> Value:
    """SwinStage.get_reshaped_hidden_states, before downsampling."""
    one = f.permute(f.view(x, x.shape[0], *block.map, x.shape[-1]), 0, 3, 1, 2)
    around.outputs.append(f.contiguous(one) if block.copied else x)
    return x


def _decoded(t: Tape, block: PixelDecoder, features: list[Value]) -> tuple[list[Value], Value]:
    """Mask2FormerPixelDecoder.forward: three maps, from the smallest, and the pixels' embeddings."""
    inputs, places = [], []
    for level, x in enumerate(features[: -block.levels - 1 : -1]):
        inputs.append(one_of(t, block.projections, level, x, Around()))
        places.append(sinusoids(t, x, block.width, wide(x)))
    sizes, batch = [one.shape[2:] for one in inputs], inputs[0].shape[0]
    flat = f.cat([f.transpose(f.reshape(one, *one.shape[:2], -1), 1, 2) for one in inputs], 1)
    there = t.new(flat.shape[:2], "bool")
    placed, _last = with_levels(t, block, places)
    states = _encoded(t, block, flat, (placed, there), sizes)
    parts = f.split(states, [rows * columns for rows, columns in sizes], 1)
    outputs = [f.view(f.transpose(x, 1, 2), batch, -1, *size) for x, size in zip(parts, sizes, strict=True)]
    for lateral, fused, feature in zip(block.lateral, block.fused, features[len(block.lateral) - 1 :: -1], strict=True):
        current = run(t, lateral, feature, Around())
        out = f.add(current, maps.interpolate(outputs[-1], current.shape[2:]))
        outputs.append(run(t, fused, out, Around()))
    return outputs[: block.levels], run(t, block.mask, outputs[-1], Around())


def _encoded(
    t: Tape, block: PixelDecoder, x: Value, beside: tuple[Value, Value], sizes: list[tuple[int, ...]]
) -> Value:
    """Mask2FormerPixelDecoderEncoderOnly.forward."""
    encoder, around = cast("Sequence", block.encoder), Around()
    around.ready, around.padding, around.scene = True, beside[1], Scene()
    around.scene.sizes = sizes
    around.rotary = beside[0], t.new((*x.shape[:2], block.levels, 2), x.dtype)
    with inside(t, encoder):
        return under_name(t, cast("Stack", encoder.blocks[0]), [x], around)


def _asked(t: Tape, block: MaskedQueries, scales: list[Value], pixels: Value) -> tuple[list[Value], list[Value]]:
    """Mask2FormerTransformerModule.forward: the states and masks ahead of and behind every layer."""
    table = t.weight("level_embed.weight", (block.levels, block.width))
    features, places = [], []
    for i, one in enumerate(scales):
        place = sinusoids(t, one, block.width, wide(one)) if i < block.levels - 1 else _cached(t, one, block.width)
        place = f.reshape(place, *place.shape[:2], -1)
        x = one_of(t, block.projections, i, one, Around())
        row = f.unsqueeze(f.unsqueeze(f.select(table, 0), 0), 2)
        features.append(f.permute(f.add(f.reshape(x, *x.shape[:2], -1), row), 2, 0, 1))
        places.append(f.permute(place, 2, 0, 1))
    sizes = [one.shape[2:] for one in scales]
    asked, x = (_learned(t, block, name, pixels.shape[0]) for name in ("queries_embedder", "queries_features"))
    around = Around()
    around.ready = True
    state = run(t, block.norm, x, around)
    foretold, seen = _foretold(t, block, state, pixels, sizes[0])
    states, masks = [state], [foretold]
    for index in range(len(cast("Stack", block.layers).layers)):
        level = index % block.levels
        around.masks, around.rotary = {0: _somewhere(seen)}, (asked, places[level])
        seen, around.encoder = cast("Value", around.masks[0]), features[level]
        x = one_of(t, block.layers, index, x, around)
        around.masks.clear()
        state = run(t, block.norm, x, around)
        foretold, seen = _foretold(t, block, state, pixels, sizes[(index + 1) % block.levels])
        states.append(state)
        masks.append(foretold)
    return states, masks


def _cached(t: Tape, one: Value, width: int) -> Value:
    """The positions that are made last, which stay in a cache."""
    batch, _, *size = one.shape
    return f.permute(t.given((batch, *size, width), wide(one), ".places"), 0, 3, 1, 2)


def wide(x: Value) -> str:
    """The dtype of positions made in x's dtype: a power among them is fp32 under autocast."""
    return "fp32" if x.tape.autocast else x.dtype


def _learned(t: Tape, block: MaskedQueries, name: str, batch: int) -> Value:
    """weight.unsqueeze(1).repeat(1, batch, 1)."""
    table = t.weight(f"{name}.weight", (block.queries, block.width))
    return f.clone(f.expand(f.unsqueeze(table, 1), block.queries, batch, block.width))


def _somewhere(seen: Value) -> Value:
    """Rows that hide everything hide nothing."""
    with seen.tape.no_grad():
        return f.mul(seen, f.unsqueeze(f.compare(f.total(seen, -1, dtype="int64")), -1))


def _foretold(t: Tape, block: MaskedQueries, state: Value, pixels: Value, size: tuple[int, ...]) -> tuple[Value, Value]:
    """Mask2FormerMaskPredictor.forward: masks [batch, queries, rows, columns], and where the next layer doesn't look."""
    embedded = run(t, block.embedder, f.transpose(state, 0, 1), Around())
    masks = f.einsum("bqc,bchw->bqhw", embedded, pixels)
    batch, count = masks.shape[:2]
    seen = f.sigmoid(maps.interpolate(masks, size))
    seen = f.unsqueeze(f.reshape(seen, batch, count, -1), 1)
    seen = f.clone(f.expand(seen, batch, block.heads, *seen.shape[2:]))
    return masks, f.compare(f.reshape(seen, batch * block.heads, *seen.shape[2:]))


@rule(MaskedLayer)
def masked_layer(t: Tape, block: MaskedLayer, x: Value, around: Around) -> Value:
    """Mask2FormerMaskedAttentionDecoderLayer.forward_post, forward_pre."""
    steps = ((block.cross, block.cross_norm), (block.mixer, block.mixer_norm), (block.mlp, block.mlp_norm))
    for part, norm in steps:
        y = run(t, part, run(t, norm, x, around) if block.before else x, around)
        x = f.add(x, f.dropout(y, block.dropout))
        del y
        x = x if block.before else run(t, norm, x, around)
    return x


@rule(Attention, "torch-masked")
def torch_masked(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """torch.nn.MultiheadAttention of three inputs [tokens, batch, width] under a mask, weights wanted."""
    own, others = cast("tuple[Value, Value]", around.rotary)
    states, width = cast("Value", around.encoder), x.shape[-1]
    (tokens, batch), heads = x.shape[:2], block.heads
    asked, keyed = f.add(x, own), f.add(states, others)
    matrix = f.split(t.weight("in_proj_weight", (3 * width, width)), (width,) * 3, 0)
    bias = f.split(t.weight("in_proj_bias", (3 * width,)), (width,) * 3, 0)
    q, k, v = (f.linear(one, matrix[i], bias[i]) for i, one in enumerate((asked, keyed, states)))
    mask = t.new(cast("Value", around.mask(0)).shape, asked.dtype)
    q, k, v = (f.transpose(f.reshape(one, one.shape[0], batch * heads, -1), 0, 1) for one in (q, k, v))
    scaled = f.scale(q)
    weights = f.softmax(f.baddbmm(mask, scaled, f.swap(k)))
    weights = f.dropout(weights, block.dropout)
    out = f.bmm(f.lower(weights), f.lower(v))
    out = f.reshape(f.contiguous(f.transpose(out, 0, 1)), tokens * batch, width)
    out = f.reshape(run(t, block.out, out, around), tokens, batch, width)
    _mean = f.mean(f.reshape(weights, batch, heads, *weights.shape[1:]), 1, keep=False)
    return out


@rule(Attention, "among-queries")
def among_queries(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Mask2FormerAttention.forward of [queries, batch, width]."""
    own, _ = cast("tuple[Value, Value]", around.rotary)
    x, own = f.permute(x, 1, 0, 2), f.permute(own, 1, 0, 2)
    batch, count, width = x.shape
    read = f.add(x, own)
    q = f.scale(run(t, block.q, read, around))
    k, v = _shaped(run(t, block.k, read, around), block), _shaped(run(t, block.v, x, around), block)
    q = _shaped(q, block)
    weights = f.softmax(f.bmm(f.lower(q), f.lower(f.swap(k))))
    out = f.bmm(f.lower(f.dropout(weights, block.dropout)), f.lower(v))
    out = f.transpose(f.view(out, batch, block.heads, count, -1), 1, 2)
    return f.permute(run(t, block.out, f.reshape(out, batch, count, width), around), 1, 0, 2)


def _shaped(x: Value, block: Attention) -> Value:
    """[batch · heads, tokens, channels], contiguous."""
    x = f.view(x, *x.shape[:2], block.heads, -1)
    x = f.contiguous(f.transpose(x, 1, 2))
    return f.view(x, -1, *x.shape[2:])
