"""MaskFormer: maps joined from the smallest up, a DETR decoder, masks held against whole objects (modeling_maskformer.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.hf.layers import under_name
from memcalc.tape.hf.mask_losses import cross_entropy, dice, of_classes, padded, pairs_dice
from memcalc.tape.hf.masking import backbone_maps, wide
from memcalc.tape.hf.programs import measured
from memcalc.tape.hf.varifocal import sum_of
from memcalc.tape.rules import Around, gone, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Stack
    from memcalc.blocks.masking import MapFinder
    from memcalc.model import Model
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def segment(t: Tape, model: Model) -> tuple[Value, Value]:
    """MaskFormerForInstanceSegmentation.forward; every image has some objects, masks as large as the image."""
    body = cast("MapFinder", model.body)
    t.layers = model.depth
    batch = t.setting.batch
    features, pixels, states = _modelled(t, body, measured(t, (batch, *model.image)))
    gone(t.held)
    classes = run(t, body.classes, states, Around())
    masks = f.einsum("bqc,bchw->bqhw", run(t, body.embedder, states, Around()), pixels)
    objects = [t.given((model.objects, *model.image[1:]), "fp32", f"mask_labels.{i}") for i in range(batch)]
    with t.no_grad():
        _matched(masks, classes, objects)
    loss = sum_of([*_of_masks(t, masks, objects), of_classes(t, classes)])
    t.outputs += [*features, pixels, states, masks]
    return loss, classes


def _modelled(t: Tape, body: MapFinder, pixels: Value) -> tuple[list[Value], Value, Value]:
    """MaskFormerModel.forward: the smallest map, the pixels' embeddings, the queries' states."""
    batch, _, *size = pixels.shape
    _mask = t.new((batch, *size), "fp32")
    features = backbone_maps(t, body.backbone, pixels)
    last = features[-1]
    embeddings = _joined(t, body, features)
    del features
    return [last], embeddings, _asked(t, body, last)


def _joined(t: Tape, body: MapFinder, features: list[Value]) -> Value:
    """MaskFormerPixelDecoder.forward."""
    around, found = Around(), []
    x = run(t, body.stem, features[-1], around)
    for lateral, fused, left in zip(body.laterals, body.fused, features[-2::-1], strict=True):
        beside = run(t, lateral, left, around)
        x = run(t, fused, f.add_(maps.interpolate(x, beside.shape[2:]), beside), around)
        found.append(x)
    return run(t, body.mask, x, around)


def _asked(t: Tape, body: MapFinder, x: Value) -> Value:
    """MaskFormerTransformerModule.forward; its sinusoids stay in a cache."""
    x, around = run(t, body.project, x, Around()), Around()
    batch, width, rows, columns = x.shape
    table = t.weight("model.transformer_module.queries_embedder.weight", (body.queries, width))
    asked = f.repeat(f.unsqueeze(table, 0), batch)
    places = t.given((batch, rows * columns, width), wide(x), ".places")
    around.ready, around.rotary, around.masks = True, (asked, places), {0: None}
    around.encoder = f.transpose(f.reshape(x, batch, width, -1), 1, 2)
    given = [t.new(asked.shape, asked.dtype)]
    return run(t, body.norm, under_name(t, cast("Stack", body.decoder), given, around), Around())


def _of_masks(t: Tape, masks: Value, objects: list[Value]) -> tuple[Value, Value]:
    """MaskFormerLoss.loss_masks: every matched mask, as large as its object's."""
    count, size = len(objects) * objects[0].shape[0], objects[0].shape[1:]
    where = t.new((count,), "int64")
    chosen = f.index(masks, where, (count, *masks.shape[2:]))
    targets, _there = padded(t, objects)
    targets = f.reshape(f.index(targets, where, (count, *size)), count, -1)
    chosen = f.reshape(maps.interpolate(f.unsqueeze(chosen, 1), size), count, -1)
    return _focal(chosen, targets), dice(chosen, targets)


def _focal(logits: Value, labels: Value) -> Value:
    """sigmoid_focal_loss."""
    chances = f.sigmoid(logits)
    each = cross_entropy(logits, labels)
    likely = f.add(f.mul(chances, labels), f.mul(f.shift(f.neg(chances)), f.shift(labels)))
    loss = f.mul(each, f.power(f.shift(f.neg(likely))))
    weight = f.add(f.scale(labels), f.scale(f.shift(labels)))
    loss = f.mul(weight, loss)
    return f.total(f.mean(loss, 1, keep=False))


def _matched(masks: Value, classes: Value, objects: list[Value]) -> None:
    """MaskFormerHungarianMatcher.forward."""
    size = masks.shape[2:]
    for given in objects:
        target = maps.interpolate(f.unsqueeze(given, 1), size)
        _chances = f.softmax(f.select(classes, 0))
        mask = f.reshape(f.select(masks, 0), masks.shape[1], -1)
        flat = f.reshape(target, target.shape[0], -1)
        _pairs(mask, flat)
        pairs_dice(mask, flat)


def _pairs(mask: Value, target: Value) -> Value:
    """pair_wise_sigmoid_focal_loss."""
    chances = f.sigmoid(mask)
    positive = cross_entropy(mask, f.scale(mask))
    first = f.mul(f.power(f.shift(chances)), positive)
    negative = cross_entropy(mask, f.scale(mask))
    second = f.mul(f.power(chances), negative)
    one = f.matmul(f.lower(first), f.lower(f.swap(target)))
    other = f.matmul(f.lower(second), f.lower(f.swap(f.shift(target))))
    return f.scale(f.add(one, other))
