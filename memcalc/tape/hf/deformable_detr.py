"""Deformable DETR: rows of pixels of several maps, queries that look at a few of their points (modeling_deformable_detr.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.tape import functions as f
from memcalc.tape.hf.alike import named
from memcalc.tape.hf.boxes import beside, inverse_sigmoid, matched, small_mask
from memcalc.tape.hf.diffusion import Scene
from memcalc.tape.hf.layers import under_name
from memcalc.tape.hf.programs import measured
from memcalc.tape.hf.refining import one_of
from memcalc.tape.rules import Around, gone, inside, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Sequence, Stack
    from memcalc.blocks.deformable import DeformableDetector
    from memcalc.blocks.masking import PixelDecoder
    from memcalc.model import Model
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def detect(t: Tape, model: Model) -> tuple[Value, Value]:
    """DeformableDetrForObjectDetection.forward; the loss as of other detectors."""
    base, classes, boxes = model.body.parts()
    t.layers = model.depth
    with inside(t, base):
        states, first, later, _rest = _detected(
            t, cast("DeformableDetector", base), measured(t, (t.setting.batch, *model.image))
        )
    gone(t.held)
    logits, found = [], []
    classes, boxes = cast("Stack", classes), cast("Stack", boxes)
    tied = classes.layers[-1] != classes.layers[0]  # to the first layer's
    for level in range(states.shape[1]):
        place = inverse_sigmoid(first if not level else f.select(later, 1))
        logits.append(one_of(t, classes, 0 if tied else level, f.select(states, 1), Around()))
        delta = one_of(t, boxes, 0 if tied else level, f.select(states, 1), Around())
        found.append(f.sigmoid(beside(delta, place)))
    told, boxed = f.stack(logits), f.stack(found)
    last = f.select(told, 0)
    return matched(t, last, f.select(boxed, 0)), last


def _detected(t: Tape, block: DeformableDetector, pixels: Value) -> tuple[Value, Value, Value, Value]:
    """DeformableDetrModel.forward: the decoder's states [batch, layers, queries, width], first and later places, the memory."""
    batch, around = pixels.shape[0], Around()
    seen = t.given((batch, *pixels.shape[2:]), "int64")
    features = _features(t, block, pixels)
    masks = [small_mask(seen, one) for one in features]
    sources = [one_of(t, block.project, i, one, around) for i, one in enumerate(features)]
    places = [sinusoids(t, one, block.width, one.dtype) for one in features]
    for level in range(len(sources), block.levels):
        source = one_of(t, block.project, level, features[-1] if level == len(features) else sources[-1], around)
        masks.append(small_mask(seen, source))
        places.append(sinusoids(t, source, block.width, source.dtype))
        sources.append(source)
    flat = f.cat([f.transpose(f.reshape(one, *one.shape[:2], -1), 1, 2) for one in sources], 1)
    there = f.cat([f.reshape(mask, batch, -1) for mask in masks], 1)
    placed, _last = with_levels(t, block, places)
    t.given(places[-1].shape, places[-1].dtype, ".places")  # of the step before, in a cache
    scene = Scene()
    scene.sizes = [one.shape[2:] for one in sources]
    ratios = t.new((batch, block.levels, 2), flat.dtype)
    memory = _encoded(t, block, flat, (placed, there), scene)
    learned = t.weight("query_position_embeddings.weight", (block.queries, 2 * block.width))
    asked, target = (
        f.expand(f.unsqueeze(part, 0), batch, -1, -1) for part in f.split(learned, (block.width, block.width), 1)
    )
    first = f.sigmoid(run(t, block.points, asked, around))
    states, later = _decoded(t, block, target, (asked, first, ratios), (memory, there, scene))
    return states, first, later, memory


def _features(t: Tape, block: DeformableDetector, pixels: Value) -> list[Value]:
    """The maps of the backbone that are read."""
    inner = Around()
    inner.ready = True
    run(t, block.backbone, pixels, inner)
    return inner.outputs[-block.maps :]


def sinusoids(t: Tape, one: Value, width: int, dtype: str) -> Value:
    """DeformableDetrSinePositionEmbedding.forward: [batch, width, rows, columns], of rows and of columns."""
    batch, _, rows, columns = one.shape
    shape = (batch, rows, columns, width // 2)
    made = []
    for _ in range(2):
        angles = t.new(shape, dtype)
        made.append(angles)
    halves = [_waves(angle) for angle in made]
    return f.permute(f.cat(halves, 3), 0, 3, 1, 2)


def _waves(angles: Value) -> Value:
    """Sines and cosines of every second channel, side by side."""
    part = (*angles.shape[:-1], angles.shape[-1] // 2, 1)
    waves = f.cat((angles.tape.new(part, angles.dtype), angles.tape.new(part, angles.dtype)))
    return f.reshape(waves, *angles.shape)


def with_levels(t: Tape, block: DeformableDetector | PixelDecoder, places: list[Value]) -> tuple[Value, Value]:
    """pos_embed + self.level_embed[level]: the positions of all tokens, and the last map's, which keep their name."""
    table = t.weight("level_embed", (block.levels, block.width))
    made = []
    for one in places:
        row = f.reshape(f.select(table, 0), 1, 1, -1)
        made.append(f.add(f.transpose(f.reshape(one, *one.shape[:2], -1), 1, 2), row))
    return f.cat(made, 1), made[-1]


def _encoded(t: Tape, block: DeformableDetector, x: Value, beside: tuple[Value, Value], scene: Scene) -> Value:
    """DeformableDetrEncoder.forward."""
    encoder = cast("Sequence", block.encoder)
    placed, around = beside[0], Around()
    around.ready, around.padding, around.scene = True, beside[1], scene
    near = t.new((x.shape[0], x.shape[1], block.levels, 2), x.dtype)
    around.rotary = placed, near
    with inside(t, encoder):
        return under_name(t, cast("Stack", encoder.blocks[0]), [f.dropout(x, block.dropout)], around)


def _decoded(
    t: Tape,
    block: DeformableDetector,
    x: Value,
    places: tuple[Value, Value, Value],
    seen: tuple[Value, Value, Scene],
) -> tuple[Value, Value]:
    """DeformableDetrDecoder.forward: every layer's output, and the places that they all look near."""
    decoder, around = cast("Sequence", block.decoder), Around()
    asked, first, ratios = places
    around.ready, around.masks = True, {0: None}
    around.encoder, around.padding, around.scene = seen
    layers = cast("Stack", decoder.blocks[0])
    states: list[Value] = []
    with inside(t, decoder):
        for index in range(len(named(layers))):
            near = f.mul(f.unsqueeze(first, 2), f.unsqueeze(ratios, 1))
            around.rotary = asked, near
            x = one_of(t, layers, index, x, around)
            states.append(x)
        return f.stack(states, 1), f.stack([first] * len(states), 1)
