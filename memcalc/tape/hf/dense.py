"""DPT and Depth Anything: states of a tower fused to one map, a number or a class for every pixel (modeling_dpt.py)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from memcalc.blocks.base import Unused
from memcalc.blocks.dense import DensePredictor, Fusion, Neck, ResizedPositions, Scaled
from memcalc.blocks.image import Aside
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.hf.programs import measured
from memcalc.tape.hf.refining import one_of
from memcalc.tape.rules import Around, gone, inside, rule, run

if TYPE_CHECKING:
    from memcalc.model import Model
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def predict(t: Tape, model: Model) -> tuple[Value, Value]:
    """DPTForSemanticSegmentation.forward; …ForDepthEstimation.forward, which has no loss: here the mean depth."""
    block = cast("DensePredictor", model.body)
    t.layers = model.depth
    pixels = measured(t, (t.setting.batch, *model.image))
    found, rest = _found(t, block, pixels)
    gone(t.held)
    if not block.classes:  # the loss comes when the model has returned
        gone(rest)
        return f.mean(found[0], *range(len(found[0].shape)), keep=False), found[0]
    labels = t.given((t.setting.batch, *model.image[1:]), "int64")
    wide = [maps.interpolate(one, model.image[1:]) for one in found]
    losses = [f.cross_entropy(one, labels) for one in wide]
    return (f.add(losses[0], f.scale(losses[1])) if losses[1:] else losses[0]), found[0]


def _found(t: Tape, block: DensePredictor, pixels: Value) -> tuple[list[Value], list[Value]]:
    """What the heads put out, and what else has a name until the model returns."""
    states, rest = _states(t, block, pixels)
    neck = cast("Neck", block.neck)
    with inside(t, neck):
        fused = _fused(t, neck, states)
    around, x = Around(), fused[-1]
    x = run(t, block.before, x, around)
    if block.after:
        x = maps.interpolate(x, block.size if all(block.size) else _twice(x))
        with inside(t, block.after):
            for part in block.after.parts():
                x = run(t, part, x, around)
        return [f.squeeze(x, 1)], [*rest, *fused]
    x = maps.interpolate(x, _twice(x))
    second = [run(t, block.second, fused[-1], around)] if block.second else []
    return [x, *second], [*rest, *fused]


def _twice(x: Value) -> tuple[int, ...]:
    return tuple(2 * side for side in x.shape[2:])


def _states(t: Tape, block: DensePredictor, pixels: Value) -> tuple[list[Value], list[Value]]:
    """The tower's states that the neck takes, and what else it puts out.

    Dinov2Backbone norms each of them, DPTModel the last of all, for nobody.
    """
    around = Around()
    states: list[Value] = []
    around.after = {number - 1: partial(_kept, states) for number in block.taken}
    last = run(t, block.tower, pixels, around)
    around.after.clear()
    if block.norm is None or isinstance(block.norm, Unused):
        return states, [last]
    if isinstance(block.norm, Aside):
        return states, [run(t, block.norm.blocks[0], last, around)]
    return [run(t, block.norm, one, around) for one in states], []


def _kept(states: list[Value], x: Value) -> Value:
    states.append(x)
    return x


def _fused(t: Tape, block: Neck, states: list[Value]) -> list[Value]:
    """DPTNeck.forward, DPTFeatureFusionStage.forward."""
    around = Around()
    resized = [_resized(t, block, index, state) for index, state in enumerate(states)]
    features = [one_of(t, block.convs, index, one, around) for index, one in enumerate(resized)]
    fused: list[Value] = []
    for index, feature in enumerate(features[::-1]):
        larger = features[-2 - index].shape[2:] if not block.doubled and index + 1 < len(features) else ()
        around.deep, around.grid = [feature] if fused else [], (0, 0, *larger) if larger else None  # type: ignore[assignment]
        fused.append(one_of(t, block.fusion, index, fused[-1] if fused else feature, around))
    around.deep = []
    return fused


def _resized(t: Tape, block: Neck, index: int, state: Value) -> Value:
    """DPTReassembleStage.forward: a map of another size."""
    around, (batch, _, width) = Around(), state.shape
    first, x = f.select(state, 1), f.narrow(state, 1, state.shape[1] - 1)
    x = f.contiguous(f.permute(f.reshape(x, batch, *block.map, width), 0, 3, 1, 2))
    shape = x.shape
    if block.readout == "project":
        x = f.permute(f.reshape(x, batch, width, -1), 0, 2, 1)
        whole = f.cat((x, f.expand(f.unsqueeze(first, 1), *x.shape)), -1)
        x = one_of(t, block.readouts, index, whole, around)
        x = f.reshape(f.permute(x, 0, 2, 1), *shape)
    elif block.readout == "add":
        x = f.reshape(f.add(f.reshape(x, batch, width, -1), f.unsqueeze(first, -1)), *shape)
    return one_of(t, block.resize, index, x, around)


@rule(Fusion)
def fusion(t: Tape, block: Fusion, x: Value, around: Around) -> Value:
    """DPTFeatureFusionLayer.forward."""
    size = around.grid[2:] if around.grid else None
    if around.deep:
        other = around.deep[0]
        other = other if other.shape == x.shape else maps.interpolate(other, x.shape[2:])
        x = f.add(x, run(t, block.first, other, Around()))
    x = run(t, block.second, x, Around())
    x = maps.interpolate(x, size or _twice(x))
    return run(t, block.project, x, Around())


@rule(ResizedPositions)
def resized_positions(t: Tape, block: ResizedPositions, x: Value, around: Around) -> Value:
    """DPTViTEmbeddings._resize_pos_embed, and the sum."""
    table, (rows, columns) = t.weight("", block.shape), block.map
    tokens, width = block.shape[1] - 1, block.shape[2]
    side = int(tokens**0.5)
    rest = f.reshape(f.narrow(f.select(table, 0), 0, tokens), 1, side, side, width)
    rest = maps.interpolate(f.permute(rest, 0, 3, 1, 2), (rows, columns))
    rest = f.reshape(f.permute(rest, 0, 2, 3, 1), 1, rows * columns, width)
    return f.add(x, f.cat((f.narrow(table, 1, 1), rest), 1))


@rule(Scaled)
def scaled(_: Tape, __: Scaled, x: Value, around: Around) -> Value:
    """Depths times the largest."""
    return f.scale(x)
