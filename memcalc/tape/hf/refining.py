"""RT-DETR: a hybrid encoder, queries chosen among its pixels, boxes refined layer by layer (modeling_rt_detr.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.refining import CrossStage, HybridEncoder, RefiningDecoder, RefiningDetector, TwoWays, WithinMap
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.hf.alike import named
from memcalc.tape.hf.boxes import small_mask
from memcalc.tape.hf.combinators import sequence
from memcalc.tape.hf.diffusion import Scene
from memcalc.tape.hf.layers import kept_or_run
from memcalc.tape.hf.programs import measured
from memcalc.tape.hf.varifocal import Found, criterion
from memcalc.tape.rules import Around, gone, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block, Stack
    from memcalc.model import Model
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def refine(t: Tape, model: Model) -> tuple[Value, Value]:
    """RTDetrForObjectDetection.forward, with one box for each image."""
    base = cast("RefiningDetector", model.body.parts()[0])
    t.layers = model.depth
    with inside(t, base):
        found = _detected(t, base, measured(t, (t.setting.batch, *model.image)))
    gone(t.held)
    loss, logits = criterion(found, base.denoising, base.queries)
    return loss, logits


def one_of(t: Tape, stack: Stack | None, index: int, x: Value, around: Around) -> Value:
    """One layer of a stack, whose caller says which; in a checkpoint of its own where its like are."""
    assert stack  # noqa: S101 - the kinds here have their stacks
    path, instance = t.path, t.instance
    above = f"{path}.{stack.name}" if path else stack.name
    layer, name = named(stack)[index]
    t.path, t.instance = f"{above}.{name}", f"{instance}/{index}"
    out = kept_or_run(t, stack, (above, index, name), layer, x, around)
    t.path, t.instance = path, instance
    t.owner = path
    return out


def _detected(t: Tape, block: RefiningDetector, pixels: Value) -> Found:
    """RTDetrModel.forward."""
    batch, around, inner = pixels.shape[0], Around(), Around()
    inner.ready = True
    mask = t.new((batch, *pixels.shape[2:]), "fp32")
    run(t, block.backbone, pixels, inner)
    features = [(one, _mask_of(mask, one)) for one in inner.outputs]
    inner.outputs.clear()
    projected = [one_of(t, block.project, i, one, around) for i, (one, _) in enumerate(features)]
    with inside(t, cast("Block", block.encoder)):
        mixed = _mixed(t, cast("HybridEncoder", block.encoder), projected)
    sources = [one_of(t, block.unproject, i, mixed[min(i, len(mixed) - 1)], around) for i in range(block.levels)]
    flat = f.cat([f.transpose(f.reshape(one, *one.shape[:2], -1), 1, 2) for one in sources], 1)
    noise = _noised(t, block, batch)
    anchors = t.given((1, flat.shape[1], 4), "fp32" if t.autocast else flat.dtype, ".anchors")  # which a logarithm made
    memory = f.mul(f.to(t.given((1, flat.shape[1], 1), "bool", ".valid_mask"), flat.dtype), flat)
    memory = run(t, block.memory, memory, around)
    scores = run(t, block.score, memory, around)
    coordinates = f.add(run(t, block.box, memory, around), anchors)
    _values, chosen = f.topk(f.squeeze(f.largest(scores), -1), block.queries)
    points = _rows(coordinates, chosen)
    boxes = f.sigmoid(points)
    points = f.cat((noise[1], points), 1) if noise else points
    logits = _rows(scores, chosen)
    with t.no_grad():
        target = _rows(memory, chosen)
    target = f.cat((noise[0], target), 1) if noise else target
    found = _decoded(t, block, target, points.detach(), flat, (sources, noise[2] if noise else None))
    del projected
    return Found(*found, logits, boxes, (memory, scores, coordinates, mixed, flat))


def _mask_of(mask: Value, one: Value) -> Value:
    return small_mask(mask, one)


def _rows(x: Value, chosen: Value) -> Value:
    """x.gather(dim=1, index=chosen.unsqueeze(-1).repeat(1, 1, channels))."""
    shape = (*chosen.shape, x.shape[-1])
    return f.take_along(x, x.tape.new(shape, "int64"), shape)


def _noised(t: Tape, block: RefiningDetector, batch: int) -> tuple[Value, Value, Value] | None:
    """get_contrastive_denoising_training_group: classes, boxes, and a mask that keeps them apart from the queries."""
    if block.noised is None:
        return None
    count = block.denoising
    kinds, boxes = t.new((batch, count), "int32"), t.new((batch, count, 4), "fp32")
    rows = cast("tuple[int, int]", block.noised.own()[0].shape)
    with inside(t, block.noised):
        classes = f.embedding(kinds, t.weight("weight", rows))
    return classes, boxes, t.new((count + block.queries,) * 2, "fp32")


def _decoded(
    t: Tape, block: RefiningDetector, x: Value, points: Value, states: Value, beside: tuple[list[Value], Value | None]
) -> tuple[Value, Value]:
    """RTDetrDecoder.forward: (classes, boxes) of every layer [batch, layers, queries, …]."""
    decoder = cast("RefiningDecoder", block.decoder)
    with inside(t, decoder):
        around = Around()
        around.ready, around.encoder, around.masks, around.scene = True, states, {0: beside[1]}, Scene()
        around.scene.sizes = [one.shape[2:] for one in beside[0]]
        near = f.sigmoid(points)
        hidden: list[Value] = []
        boxes, logits = [], []
        for index in range(len(cast("Stack", decoder.layers).layers)):
            places = run(t, decoder.places, near, Around())
            around.rotary = places, near
            x = one_of(t, decoder.layers, index, x, around)
            corners = one_of(t, decoder.boxes, index, x, Around())
            new = f.sigmoid(f.add(corners, _inverse_sigmoid(near)))
            near = new.detach()
            hidden.append(x)
            boxes.append(new)
            logits.append(one_of(t, decoder.classes, index, x, Around()))
        states = f.stack(hidden, 1)
        return f.stack(logits, 1), f.stack(boxes, 1)


def _inverse_sigmoid(x: Value) -> Value:
    """log(x / (1 - x)), of what asks for no gradient."""
    x = f.scale(x)
    first = f.scale(x)
    second = f.scale(f.shift(x))
    return f.log(f.div(first, second))


def _mixed(t: Tape, block: HybridEncoder, given: list[Value]) -> list[Value]:
    """RTDetrHybridEncoder.forward, which puts what attention makes of a map in that map's place."""
    around, count = Around(), len(given) - 1
    for i, place in enumerate(block.at):
        given[place] = one_of(t, block.within, i, given[place], around)
    rising = [given[-1]]
    for i in range(count):
        top = one_of(t, block.lateral, i, rising[-1], around)
        rising[-1] = top
        rows, columns = top.shape[2:]
        top = maps.interpolate(top, (2 * rows, 2 * columns))
        fused = f.cat((top, given[count - i - 1]), 1)
        rising.append(one_of(t, block.rising, i, fused, around))
    rising.reverse()
    falling = [rising[0]]
    for i in range(count):
        half = one_of(t, block.halving, i, falling[-1], around)
        fused = f.cat((half, rising[i + 1]), 1)
        falling.append(one_of(t, block.falling, i, fused, around))
    return falling


@rule(WithinMap)
def within_map(t: Tape, block: WithinMap, x: Value, around: Around) -> Value:
    """RTDetrAIFILayer.forward; its sinusoids stay in a cache."""
    batch, width, *size = x.shape
    x = f.transpose(f.reshape(x, batch, width, -1), 1, 2)
    places = t.given((1, x.shape[1], width), x.dtype, ".places")
    inner = Around()
    inner.ready, inner.rotary, inner.masks = True, (places, places), {0: None}
    x = sequence(t, block, x, inner)
    return f.contiguous(f.reshape(f.transpose(x, 1, 2), batch, width, *size))


@rule(TwoWays)
def two_ways(t: Tape, block: TwoWays, x: Value, around: Around) -> Value:
    """RTDetrRepVggBlock.forward."""
    y = f.add(run(t, block.first, x, around), run(t, block.second, x, around))
    return run(t, block.activation, y, around)


@rule(CrossStage)
def cross_stage(t: Tape, block: CrossStage, x: Value, around: Around) -> Value:
    """RTDetrCSPRepLayer.forward."""
    first = run(t, block.first, x, around)
    first = run(t, block.layers, first, around)
    second = run(t, block.second, x, around)
    return run(t, block.last, f.add(first, second), around)
