"""What detectors have in common: the mask of a map, boxes beside points, and the loss of those that are matched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.rules import Around, run

if TYPE_CHECKING:
    from memcalc.blocks.detection import SetDetector
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def backbone(t: Tape, block: SetDetector, x: Value) -> tuple[Value, list[Value], list[Value]]:
    """What the encoder is given of a backbone's maps, those that are kept, and the masks of these."""
    seen = t.given((x.shape[0], *x.shape[2:]), "int64")
    inner = Around()
    inner.ready = True
    found = run(t, block.backbone, x, inner)
    kept = inner.outputs[-block.maps :]
    inner.outputs.clear()
    return found, kept, [small_mask(seen, one) for one in kept]


def small_mask(seen: Value, one: Value) -> Value:
    """The mask of pixels at a map's size: by way of floats, as booleans."""
    wide = f.unsqueeze(f.to(seen, "fp32"), 0)
    return f.to(maps.interpolate(wide, one.shape[2:]), "bool")


def beside(boxes: Value, places: Value) -> Value:
    """boxes[..., :2] += places."""
    return f.assign(boxes, f.add_(f.narrow(boxes, -1, 2), places))


def inverse_sigmoid(x: Value) -> Value:
    """log(x / (1 - x)), between bounds."""
    x = f.clamp(x)
    first = f.clamp(x)
    second = f.clamp(f.subtract(x.tape.new((), x.dtype), x))
    return f.log(f.div(first, second))


def matched(t: Tape, logits: Value, boxes: Value) -> Value:
    """A loss of the classes of all queries, and of all boxes."""
    labels = t.given(logits.shape[:2], "int64")
    classes = f.cross_entropy(f.reshape(logits, -1, logits.shape[-1]), labels)
    return f.add(classes, f.mean(boxes, 0, 1, 2, keep=False))
