"""The loss of RT-DETR: a varifocal loss of classes and one of matched boxes, for every layer (loss/loss_rt_detr.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record
from memcalc.tape.functions.casts import upper

if TYPE_CHECKING:
    from memcalc.tape.values import Value


class Found(NamedTuple):
    """Classes and boxes of every layer [batch, layers, queries, …], those of the queries as they were chosen, and the rest."""

    logits: Value
    boxes: Value
    first_logits: Value
    first_boxes: Value
    rest: tuple[Value | list[Value], ...]


def criterion(found: Found, denoising: int, queries: int) -> tuple[Value, Value]:
    """RTDetrForObjectDetectionLoss: (loss, logits)."""
    logits, boxes = f.select(found.logits, 1), f.select(found.boxes, 1)
    classes, places, sizes = found.logits, found.boxes, (denoising, queries)
    noised: list[tuple[Value, Value]] = []
    last = logits, boxes
    if denoising:
        last = f.split(logits, sizes, 1)[1], f.split(boxes, sizes, 1)[1]
        noisy_places, places = f.split(places, sizes, 2)
        noisy_classes, classes = f.split(classes, sizes, 2)
        noised = list(zip(_layers(noisy_classes), _layers(noisy_places), strict=True))
    count = classes.shape[1] - 1
    early = zip(_layers(f.narrow(classes, 1, count)), _layers(f.narrow(places, 1, count)), strict=True)
    batch = logits.shape[0]
    losses = [
        part for pair in (last, *early, (found.first_logits, found.first_boxes)) for part in _losses(*pair, batch)
    ]
    losses += [part for pair in noised for part in _losses(*pair, batch * denoising // 2)]
    return sum_of(losses), logits


def _layers(x: Value) -> tuple[Value, ...]:
    return f.unbind(f.transpose(x, 0, 1), 0)


def sum_of(losses: list[Value]) -> Value:
    """sum(losses)."""
    whole = losses[0]
    for part in losses[1:]:
        whole = f.add(whole, part)
    return whole


def _losses(logits: Value, boxes: Value, matched: int) -> tuple[Value, Value, Value]:
    """loss_labels_vfl, loss_boxes, of so many boxes in all that are matched with one that was given."""
    tape, shape, dtype = logits.tape, logits.shape, logits.dtype
    where, given = tape.new((matched,), "int64"), tape.new((matched, 4), boxes.dtype)
    with tape.no_grad():
        _overlap(_corners(f.index(boxes, where, (matched, 4))), _corners(given))
    target = tape.new(shape, dtype)
    weight = tape.new(shape, dtype)
    each = f.mean(_cross_entropy(logits, target, weight), 1, keep=False)
    found = f.index(boxes, where, (matched, 4))
    apart = f.absolute(f.subtract(found, given))
    common = _diagonal(_generalized(_corners(found), _corners(given)))
    return f.total(each), f.total(apart), f.total(f.shift(f.neg(common)))


def _corners(boxes: Value) -> Value:
    """center_to_corners_format."""
    x, y, wide, high = f.unbind(boxes, 1)
    parts = f.subtract(x, f.scale(wide)), f.subtract(y, f.scale(high)), f.add(x, f.scale(wide)), f.add(y, f.scale(high))
    return f.stack(parts, -1)


def _area(corners: Value) -> Value:
    """box_area."""
    left, top, right, bottom = (f.select(corners, 1) for _ in range(4))
    return f.mul(f.subtract(right, left), f.subtract(bottom, top))


def _overlap(one: Value, other: Value) -> tuple[Value, Value]:
    """box_iou of all pairs: intersections by unions, and the unions."""
    first, second = _area(one), _area(other)
    start, end = _extremes(one, other), _extremes(one, other)
    sides = f.clamp(f.subtract(end, start))
    inter = f.mul(f.select(sides, 2), f.select(sides, 2))
    union = f.subtract(f.add(f.unsqueeze(first, 1), second), inter)
    ratio = f.div(inter, union)
    return ratio, union


def _extremes(one: Value, other: Value) -> Value:
    """The larger, or smaller, coordinates of two corners, of all pairs [n, n, 2]."""
    return f.maximum(f.unsqueeze(f.narrow(one, 1, 2), 1), f.narrow(other, 1, 2))


def _generalized(one: Value, other: Value) -> Value:
    """generalized_box_iou."""
    ratio, union = _overlap(one, other)
    start, end = _extremes(one, other), _extremes(one, other)
    sides = f.clamp(f.subtract(end, start))
    area = f.mul(f.select(sides, 2), f.select(sides, 2))
    return f.subtract(ratio, f.div(f.subtract(area, union), area))


def _diagonal(x: Value) -> Value:
    """torch.diag: a copy; the gradient is put into zeros."""
    out = x.tape.new(x.shape[:1], x.dtype)
    out.node = record(x.tape, _diagonal_backward, (x,))
    return out


def _diagonal_backward(node: Node, g: Value) -> Gradients:
    return (g.tape.new(node.shape(0), g.dtype),)


def _cross_entropy(logits: Value, target: Value, weight: Value) -> Value:
    """F.binary_cross_entropy_with_logits with weights: saves all three, in fp32 under autocast."""
    logits, target, weight = upper(logits), upper(target), upper(weight)
    out = logits.tape.new(logits.shape, logits.dtype)
    out.node = record(logits.tape, _cross_entropy_backward, (logits,), (logits, target, weight))
    return out


def _cross_entropy_backward(node: Node, g: Value) -> Gradients:
    """(sigmoid(input) - target) times the gradient and the weight in place."""
    logits, *_ = node.load()
    chances = logits.tape.new(logits.shape, logits.dtype)
    out = logits.tape.new(logits.shape, logits.dtype)
    del chances
    return (out,)
