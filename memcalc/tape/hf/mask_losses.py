"""The loss of masks of queries, each held against the object it is matched with, in a few points (Mask2FormerLoss)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record
from memcalc.tape.functions import maps
from memcalc.tape.functions.casts import upper
from memcalc.tape.hf.varifocal import sum_of

if TYPE_CHECKING:
    from memcalc.blocks.masking import MaskSegmenter
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Shape, Value


def criterion(t: Tape, block: MaskSegmenter, found: list[tuple[Value, Value]], shape: Shape) -> Value:
    """Mask2FormerLoss.forward, of the last layer's (masks, classes) and then of the others'; `shape` is of an image's objects."""
    batch = found[0][0].shape[0]
    objects = [t.given(shape, "fp32", f"mask_labels.{i}") for i in range(batch)]
    losses = [part for pair in (found[-1], *found[:-1]) for part in _losses(t, block, *pair, objects)]
    return sum_of(losses)


def _losses(t: Tape, block: MaskSegmenter, masks: Value, classes: Value, objects: list[Value]) -> list[Value]:
    with t.no_grad():
        _matched(block, masks, classes, objects)
    return [*_of_masks(t, block, masks, objects), of_classes(t, classes)]


def of_classes(t: Tape, classes: Value) -> Value:
    """loss_labels: every query's class, most of them none."""
    batch, queries, count = classes.shape
    labels = t.new((batch, queries), "int64")
    rows = f.reshape(classes, batch * queries, count)
    return f.cross_entropy(rows, labels)


def _of_masks(t: Tape, block: MaskSegmenter, masks: Value, objects: list[Value]) -> tuple[Value, Value]:
    """loss_masks."""
    batch, _, *small = masks.shape
    count = batch * objects[0].shape[0]
    where = t.new((count,), "int64")
    chosen = f.unsqueeze(f.index(masks, where, (count, *small)), 1)
    targets, _there = padded(t, objects)
    targets = f.unsqueeze(f.index(targets, where, (count, *objects[0].shape[1:])), 1)
    with t.no_grad():
        points = _in_doubt(t, block, chosen)
        labels = sampled(targets, points)
    logits = sampled(chosen, points)
    return f.total(f.mean(cross_entropy(logits, labels), 1, keep=False)), dice(logits, labels)


def padded(t: Tape, objects: list[Value]) -> tuple[Value, Value]:
    """_pad_images_to_max_in_batch: all objects' masks, and where there is none."""
    batch, (count, rows, columns) = len(objects), objects[0].shape
    return t.new((batch, count, rows, columns), objects[0].dtype), t.new((batch, rows, columns), "bool")


def _in_doubt(t: Tape, block: MaskSegmenter, masks: Value) -> Value:
    """sample_points_using_uncertainty: [objects, points, 2], the larger part of them where the masks are least sure."""
    count, drawn = masks.shape[0], int(block.points * block.drawn)
    sure = int(block.doubtful * block.points)
    points = t.new((count, drawn, 2), "fp32")
    logits = sampled(masks, points)
    unsure = f.neg(f.absolute(logits))
    _, chosen = f.topk(unsure, sure)
    points = f.index(f.reshape(points, -1, 2), f.reshape(chosen, -1), (count * sure, 2))
    points = f.reshape(points, count, sure, 2)
    if block.points > sure:
        points = f.cat((points, t.new((count, block.points - sure, 2), "fp32")), 1)
    return points


def sampled(x: Value, points: Value) -> Value:
    """sample_point: [objects, points] of maps [objects, 1, rows, columns]."""
    grid = f.shift(f.scale(f.unsqueeze(points, 2)))
    out = maps.grid_sample(x, grid, (*x.shape[:2], points.shape[1], 1))
    return f.squeeze(f.squeeze(out, 3), 1)


def cross_entropy(logits: Value, labels: Value) -> Value:
    """nn.BCEWithLogitsLoss(reduction="none"): saves both."""
    logits, labels = upper(logits), upper(labels)
    tape = logits.tape
    likely = tape.new(logits.shape, logits.dtype)
    out = tape.new(logits.shape, logits.dtype)
    del likely
    out.node = record(tape, _cross_entropy_backward, (logits,), (logits, labels))
    return out


def _cross_entropy_backward(node: Node, g: Value) -> Gradients:
    """(sigmoid(input) - target) · gradient."""
    logits, _ = node.load()
    chances = logits.tape.new(logits.shape, logits.dtype)
    out = logits.tape.new(logits.shape, logits.dtype)
    del chances
    return (out,)


def dice(logits: Value, labels: Value) -> Value:
    """dice_loss."""
    chances = f.sigmoid(logits)
    above = f.scale(f.total(f.mul(chances, labels), -1))
    below = f.add(f.total(chances, -1), f.total(labels, -1))
    return f.scale(f.total(f.shift(f.div(f.shift(above), f.shift(below)))))


def _matched(block: MaskSegmenter, masks: Value, classes: Value, objects: list[Value]) -> None:
    """Mask2FormerHungarianMatcher.forward: a cost of every pair of query and object, image by image."""
    tape, queries, points = masks.tape, masks.shape[1], block.points
    for given in objects:
        _chances = f.softmax(f.select(classes, 0))
        target, mask = f.unsqueeze(f.to(given, masks.dtype), 1), f.unsqueeze(f.select(masks, 0), 1)
        _drawn = tape.new((1, points, 2), "fp32")
        places = tape.new((given.shape[0], points, 2), "fp32")
        target = sampled(target, places)
        places = tape.new((queries, points, 2), "fp32")
        mask = sampled(mask, places)
        _pairs(mask, target)
        pairs_dice(mask, target)


def _pairs(mask: Value, target: Value) -> Value:
    """pair_wise_sigmoid_cross_entropy_loss."""
    positive = cross_entropy(mask, f.scale(mask))
    negative = cross_entropy(mask, f.scale(mask))
    first = f.matmul(f.lower(f.scale(positive)), f.lower(f.swap(target)))
    second = f.matmul(f.lower(f.scale(negative)), f.lower(f.swap(f.shift(target))))
    return f.add(first, second)


def pairs_dice(mask: Value, target: Value) -> Value:
    """pair_wise_dice_loss."""
    chances = f.sigmoid(mask)
    above = f.scale(f.matmul(f.lower(chances), f.lower(f.swap(target))))
    below = f.add(f.unsqueeze(f.total(chances, -1), 1), f.unsqueeze(f.total(target, -1), 0))
    return f.div(above, below)
