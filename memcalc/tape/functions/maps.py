"""Maps of pixels [batch, channels, height, width]: pooling and resampling."""

from __future__ import annotations

from memcalc.tape.autograd import Gradients, Node, record, save
from memcalc.tape.functions.casts import to, upper
from memcalc.tape.functions.shaping import contiguous
from memcalc.tape.values import Shape, Value, dense_like, promoted


def max_pool(x: Value, size: Shape) -> Value:
    """F.max_pool2d: saves its input and, of every output, the index it came from; yields what lies as its input does."""
    node = record(x.tape, _resized_backward, (x,), (x,))
    shape = (*x.shape[:2], *size)
    out = x.tape.new(shape, x.dtype, dense_like(shape, x.strides))
    save(x.tape, node, x.tape.new(shape, "int64"))
    out.node = node
    return out


def average_pool(x: Value, size: Shape) -> Value:
    """F.avg_pool2d: saves its input, and yields what lies as it does."""
    node = record(x.tape, _resized_backward, (x,), (x,))
    shape = (*x.shape[:2], *size)
    out = x.tape.new(shape, x.dtype, dense_like(shape, x.strides))
    out.node = node
    return out


def interpolate(x: Value, size: Shape) -> Value:
    """F.interpolate, nearest, linear or bilinear: saves nothing; every upsample_* is in autocast's fp32 list."""
    x = upper(x)
    shape = (*x.shape[:2], *size)
    out = x.tape.new(shape, x.dtype, dense_like(shape, x.strides))
    out.node = record(x.tape, _resized_backward, (x,))
    return out


def grid_sample(x: Value, grid: Value, shape: Shape) -> Value:
    """F.grid_sample, in the wider dtype of both: saves the map and the grid; backward makes the gradients of both."""
    dtype = promoted(x.dtype, grid.dtype)
    x, grid = to(x, dtype), to(grid, dtype)
    out = x.tape.new(shape, dtype)
    out.node = record(x.tape, _sampled_backward, (x, grid), (x, grid))
    return out


def _sampled_backward(node: Node, g: Value) -> Gradients:
    x, grid = node.load()
    made, other = g.tape.new(x.shape, g.dtype), g.tape.new(grid.shape, grid.dtype)
    return made, other if node.wants(1) else None


def unfold(x: Value, shape: Shape) -> Value:
    """nn.functional.unfold: the pixels of every patch side by side, of a contiguous copy."""
    x = contiguous(x)
    out = x.tape.new(shape, x.dtype)
    out.node = record(x.tape, _resized_backward, (x,))
    return out


def fold(x: Value, shape: Shape) -> Value:
    """nn.functional.fold: patches put together to a map; the gradient is unfolded again."""
    x = contiguous(x)
    out = x.tape.new(shape, x.dtype)
    out.node = record(x.tape, _resized_backward, (x,))
    return out


def _resized_backward(node: Node, g: Value) -> Gradients:
    _saved = node.load()
    return (g.tape.new(node.shape(0), g.dtype),)
