"""Semantic segmentation: maps of several stages, a head that reads them all, a loss of every pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.dense import DensePredictor
from memcalc.blocks.segmenting import MapsHead, Yielded
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.hf.programs import body, measured, split
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.model import Model
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def segment(t: Tape, model: Model) -> tuple[Value, Value]:
    """…ForSemanticSegmentation.forward: logits enlarged to the labels' size, cross entropy of every pixel."""
    if isinstance(model.body, DensePredictor):
        from memcalc.tape.hf.dense import predict  # noqa: PLC0415 - few models fuse a tower's states

        return predict(t, model)
    base, heads = split(model.body)
    t.layers = model.depth
    batch, size = t.setting.batch, model.image[1:]
    pixels, labels = measured(t, (batch, *model.image)), t.given((batch, *size), "int64")
    around = Around()
    logits, around.outputs = body(t, base, pixels)
    for head in heads:
        logits = run(t, head, logits, around)
    enlarged = maps.interpolate(logits, size)
    return f.cross_entropy(enlarged, labels), logits


@rule(Yielded)
def yielded(_: Tape, block: Yielded, x: Value, around: Around) -> Value:
    """capture_outputs: the output of a stage among the hidden states."""
    around.outputs.append(x)
    return x


@rule(MapsHead)
def maps_head(t: Tape, block: MapsHead, x: Value, around: Around) -> Value:
    """SegformerDecodeHead.forward up to the convolution that fuses the maps."""
    size, made = around.outputs[0].shape[2:], []
    for one, linear in zip(around.outputs, block.blocks, strict=True):
        y = run(t, linear, f.transpose(f.reshape(one, *one.shape[:2], -1), 1, 2), around)
        y = f.reshape(f.transpose(y, 1, 2), y.shape[0], -1, *one.shape[2:])
        made.append(maps.interpolate(y, size))
    around.summed += made  # a name of the head's own function, until that returns
    return f.cat(made[::-1], 1)
