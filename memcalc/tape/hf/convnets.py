"""Convolutional networks: pooling, batch norm, norms of channels, shortcuts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.basic import Norm
from memcalc.blocks.image import Axes, Excite, Local, PixelGroups, Pool, ResponseNorm, Shortcut
from memcalc.blocks.pooling import Unfold
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.hf.activations import activate
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Shortcut)
def shortcut(t: Tape, block: Shortcut, x: Value, around: Around) -> Value:
    """The layer, += its shortcut, in place (ResNetBottleNeckLayer.forward)."""
    y = run(t, block.layer, x, around)
    return f.add_(y, run(t, block.projection, x, around) if block.projection else x)


@rule(Axes)
def axes(_: Tape, block: Axes, x: Value, around: Around) -> Value:
    """x.permute(…), and where it is `copied` .contiguous()."""
    x = f.permute(x, *block.order)
    return f.contiguous(x) if block.copied else x


@rule(Local)
def local(t: Tape, block: Local, x: Value, around: Around) -> Value:
    """A module with a name for what it joins (MobileViTLayer.forward), also where a checkpoint stops it half-way.

    Another is that of the map whose pixels its transformer reads, until that is a map again.
    """
    before, around.scene.used = around.scene.used, []
    try:
        for part in block.blocks:
            y = run(t, part, x, around)
            if isinstance(part, (PixelGroups, Unfold)):
                _features = y if part.back else x
                _patches = x if isinstance(part, Unfold) else None
            x = y
    finally:
        around.scene.used = before
    return x


@rule(Pool)
def pool(_: Tape, block: Pool, x: Value, around: Around) -> Value:
    """nn.MaxPool2d, nn.AvgPool2d; of the whole map, which is a mean (nn.AdaptiveAvgPool2d(1))."""
    if not block.kernel:
        return f.mean(x, 2, 3)
    size = tuple((n + 2 * block.padding - block.kernel) // block.stride + 1 for n in x.shape[2:])
    return maps.max_pool(x, size) if block.kind == "max" else maps.average_pool(x, size)


@rule(Excite)
def excite(t: Tape, block: Excite, x: Value, around: Around) -> Value:
    """EfficientNetSqueezeExciteLayer.forward."""
    y = run(t, block.reduce, f.mean(x, 2, 3), around)
    y = f.sigmoid(run(t, block.expand, activate(block.activation, y), around))
    return f.mul(x, y)


@rule(Norm, "batch")
def batch_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """nn.BatchNorm2d in training."""
    return f.batch_norm(x, t.weight("weight", (block.width,)), t.weight("bias", (block.width,)))


@rule(Norm, "channels-first")
def map_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """ConvNextLayerNorm.forward of a map: the channels put last, normed, and put back."""
    x = f.permute(x, 0, 2, 3, 1)
    x = f.layer_norm(x, t.weight("weight", (block.width,)), t.weight("bias", (block.width,)))
    return f.permute(x, 0, 3, 1, 2)


@rule(ResponseNorm)
def response_norm(t: Tape, block: ResponseNorm, x: Value, _: Around) -> Value:
    """ConvNextV2GRN.forward."""
    weight, bias = (t.weight(name, (1, 1, 1, block.width)) for name in block.own_names)
    whole = f.vector_norm(x, 1, 2)
    ratio = f.div(whole, f.shift(f.mean(whole, -1)))
    return f.add(f.add(f.mul(weight, f.mul(x, ratio)), bias), x)
