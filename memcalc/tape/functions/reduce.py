"""Sums, means, softmax and the norms that are torch functions of their own."""

from __future__ import annotations

from math import prod

from memcalc.tape.autograd import Gradients, Node, record, save
from memcalc.tape.functions.arithmetic import result
from memcalc.tape.functions.casts import to, upper
from memcalc.tape.functions.joining import in_format
from memcalc.tape.functions.shaping import contiguous
from memcalc.tape.values import Shape, Value, contiguous_strides, dense_like, normal


def _kept(shape: Shape, axes: tuple[int, ...], keep: bool) -> Shape:
    axes = tuple(a % len(shape) for a in axes)
    if keep:
        return tuple(1 if i in axes else size for i, size in enumerate(shape))
    return tuple(size for i, size in enumerate(shape) if i not in axes)


def mean(x: Value, *axes: int, keep: bool = True) -> Value:
    """x.mean(axes): saves nothing; the gradient is expanded and divided, as large as x."""
    out = x.tape.new(_kept(x.shape, axes or (-1,), keep), x.dtype)
    out.node = record(x.tape, _mean_backward, (x,), (), x.shape)
    return out


def _mean_backward(node: Node, g: Value) -> Gradients:
    return (g.tape.new(node.meta, g.dtype),)


def variance(x: Value) -> Value:
    """x.var(-1, keepdim=True): saves x; the gradient is a number times grad times x less its mean (var_backward)."""
    out = x.tape.new((*x.shape[:-1], 1), x.dtype)
    out.node = record(x.tape, _variance_backward, (x,), (x,))
    return out


def _variance_backward(node: Node, g: Value) -> Gradients:
    (x,) = node.load()
    scaled = result(g, None)
    mean = g.tape.new(g.shape, x.dtype)
    centred = result(x, None)
    del mean
    out = result(centred, None)
    del centred, scaled
    return (out,)


def deviation(x: Value, axis: int) -> Value:
    """x.std(axis): saves x and itself; the gradient is that of the variance, of grad divided by twice the deviation."""
    node = record(x.tape, _deviation_backward, (x,), (x,), axis)
    out = x.tape.new(_kept(x.shape, (axis,), keep=False), x.dtype)
    save(x.tape, node, out)
    out.node = node
    return out


def _deviation_backward(node: Node, g: Value) -> Gradients:
    x, _deviation = node.load()
    scaled = g.tape.new(g.shape, g.dtype)
    mean = g.tape.new(g.shape, x.dtype)
    centred = result(x, None)
    grad = result(x, None)
    del scaled, centred, mean
    return (grad,)


def total(x: Value, *axes: int, keep: bool = False, dtype: str = "") -> Value:
    """x.sum(axes), in a `dtype` of its own: the gradient is a view that repeats."""
    x = upper(x)
    axes = tuple(a % len(x.shape) for a in axes) or tuple(range(len(x.shape)))
    out = x.tape.new(_kept(x.shape, axes, keep), dtype or x.dtype)
    out.node = record(x.tape, _sum_backward, (x,), (), (x.shape, axes, keep))
    return out


def _sum_backward(node: Node, g: Value) -> Gradients:
    shape, axes, keep = node.meta
    steps = list(contiguous_strides(g.shape) if g.strides is None else g.strides)
    if not keep:
        for axis in sorted(axes):
            steps.insert(axis, 0)
    strides = tuple(0 if axis in axes else step for axis, step in enumerate(steps))
    return (Value(g.tape, g.storage, shape, g.dtype, normal(shape, strides)),)


def logsumexp(x: Value) -> Value:
    """torch.logsumexp over the last axis: saves both; backward is grad * exp(x - result)."""
    node = record(x.tape, _logsumexp_backward, (x,), (x,))
    out = x.tape.new(x.shape[:-1], x.dtype)
    out.node = node
    save(x.tape, node, out)
    return out


def _logsumexp_backward(node: Node, g: Value) -> Gradients:
    x, _ = node.load()
    below = result(x, None)
    raised = result(below, None)
    out = result(raised, None)
    del raised, below
    return (out,)


def logsumexp_of(x: Value, axis: int) -> Value:
    """torch.logsumexp over any axis, with what it is made of: x less its largest, raised in place (ReduceOps.cpp)."""
    node = record(x.tape, _logsumexp_backward, (x,), (x,))
    out = x.tape.new(_kept(x.shape, (axis,), keep=False), x.dtype)
    most = x.tape.new(out.shape, x.dtype)
    raised = x.tape.new(x.shape, x.dtype)
    del most, raised
    out.node = node
    save(x.tape, node, out)
    return out


def cumsum(x: Value) -> Value:
    """x.cumsum: saves nothing; the gradient is turned round, summed up and turned round again (cumsum_backward)."""
    x = upper(x)
    return result(x, record(x.tape, _cumsum_backward, (x,)))


def _cumsum_backward(_: Node, g: Value) -> Gradients:
    turned = result(g, None)
    sums = result(turned, None)
    out = result(sums, None)
    del sums, turned
    return (out,)


def largest(x: Value) -> Value:
    """x.max(-1, keepdim=True).values: saves the indices; the gradient is put into zeros as large as x."""
    shape = (*x.shape[:-1], 1)
    node = record(x.tape, _largest_backward, (x,))
    out, indices = x.tape.new(shape, x.dtype), x.tape.new(shape, "int64")
    out.node = node
    save(x.tape, node, indices)
    return out


def maxima(x: Value, axis: int) -> Value:
    """x.max(axis).values: as `largest`, of another axis, which goes."""
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    node = record(x.tape, _largest_backward, (x,))
    out, indices = x.tape.new(shape, x.dtype), x.tape.new(shape, "int64")
    out.node = node
    save(x.tape, node, indices)
    return out


def _largest_backward(node: Node, g: Value) -> Gradients:
    _indices = node.load()
    zeros = g.tape.new(node.shape(0), g.dtype)
    out = g.tape.new(zeros.shape, g.dtype)
    del zeros
    return (out,)


def amax(x: Value) -> Value:
    """x.amax(-1): saves both; the gradient goes to where they are equal (scale_grad_by_count, FunctionsManual.cpp)."""
    node = record(x.tape, _amax_backward, (x,), (x,))
    out = x.tape.new(x.shape[:-1], x.dtype)
    out.node = node
    save(x.tape, node, out)
    return out


def _amax_backward(node: Node, g: Value) -> Gradients:
    x, out = node.load()
    equal = result(x, None, dtype="bool")
    count = g.tape.new(out.shape, "int64")
    share = result(g, None)
    made = result(x, None)
    del equal, count, share
    return (made,)


def softmax(x: Value, dtype: str = "") -> Value:
    """softmax over the last axis, in `dtype` where one is named (a cast first, x is held meanwhile); saves its output."""
    read = to(x, dtype) if dtype else upper(x)
    node = record(x.tape, _softmax_backward, (read,))
    out = x.tape.new(x.shape, read.dtype)
    out.node = node
    save(x.tape, node, out)
    return out


def _softmax_backward(node: Node, g: Value) -> Gradients:
    (out,) = node.load()
    return (out.tape.new(out.shape, g.dtype),)


def log_softmax(x: Value) -> Value:
    """As softmax."""
    return softmax(x)


def layer_norm(x: Value, weight: Value | None, bias: Value | None) -> Value:
    """F.layer_norm: saves its input, the mean and the reciprocal deviation of each row (native_layer_norm)."""
    x = upper(x)
    weight, bias = weight and upper(weight), bias and upper(bias)
    node = record(x.tape, _norm_backward, (x, weight, bias), (x, weight))
    out = result(x, node) if x.strides is None else x.tape.new(x.shape, x.dtype)
    out.node = node
    keep_statistics(x, node, (*x.shape[:-1], 1))
    return out


def keep_statistics(x: Value, node: Node | None, shape: Shape) -> None:
    """Save a mean and a reciprocal deviation, of which one goes only when both are there."""
    mean, deviation = x.tape.new(shape, x.dtype), x.tape.new(shape, x.dtype)
    save(x.tape, node, mean)
    save(x.tape, node, deviation)


def _norm_backward(node: Node, g: Value) -> Gradients:
    x, *_ = node.load()
    return tuple(g.tape.new(edge.shape, g.dtype) if edge else None for edge in node.edges)


def group_norm(x: Value, weight: Value | None, bias: Value | None, groups: int) -> Value:
    """F.group_norm: saves its input, or a copy where it lies in no memory format, and two statistics of each group."""
    x = upper(x)
    x = contiguous(x) if in_format(x.shape, x) is None else x
    weight, bias = weight and upper(weight), bias and upper(bias)
    node = record(x.tape, _norm_backward, (x, weight, bias), (x, weight))
    out = x.tape.new(x.shape, x.dtype)
    out.node = node
    keep_statistics(x, node, (x.shape[0], groups))
    return out


def weight_norm(direction: Value, length: Value) -> Value:
    """length * direction / |direction| (_weight_norm_interface): saves both and the norms."""
    node = record(direction.tape, _weight_norm_backward, (direction, length), (direction, length))
    out = direction.tape.new(direction.shape, direction.dtype)
    out.node = node
    save(direction.tape, node, direction.tape.new(length.shape, "fp32"))
    return out


def _weight_norm_backward(node: Node, g: Value) -> Gradients:
    _saved = node.load()
    return tuple(g.tape.new(edge.shape, edge.dtype) if edge else None for edge in node.edges)


def batch_norm(x: Value, weight: Value | None, bias: Value | None) -> Value:
    """F.batch_norm in training: saves its input and two statistics of each channel; output and gradient lie like it."""
    node = record(x.tape, _batch_norm_backward, (x, weight, bias), (x, weight))
    out = result(x, node)
    keep_statistics(x, node, (x.shape[1],))
    return out


def _batch_norm_backward(node: Node, g: Value) -> Gradients:
    x, *_ = node.load()
    first, *others = node.edges
    own = x.tape.new(x.shape, g.dtype, dense_like(x.shape, x.strides)) if first else None
    return own, *(g.tape.new(edge.shape, g.dtype) if edge else None for edge in others)


def rms_norm(x: Value, weight: Value | None) -> Value:
    """F.rms_norm where it is one kernel: saves its input and the reciprocal root of each row."""
    node = record(x.tape, _norm_backward, (x, weight), (x, weight))
    out = x.tape.new(x.shape, x.dtype)
    out.node = node
    save(x.tape, node, x.tape.new((*x.shape[:-1], 1), "fp32"))
    return out


def rows(shape: Shape) -> int:
    """Rows of a tensor: everything but its last axis."""
    return prod(shape[:-1])


def vector_norm(x: Value, *axes: int, dtype: str = "") -> Value:
    """torch.linalg.vector_norm over the axes, which are kept, in a `dtype` of its own: saves its input and its output."""
    x = upper(x)
    node = record(x.tape, _vector_norm_backward, (x,), (x,))
    out = x.tape.new(_kept(x.shape, axes, keep=True), dtype or x.dtype)
    out.node = node
    save(x.tape, node, out)
    return out


def _vector_norm_backward(node: Node, g: Value) -> Gradients:
    """grad * (self / norm), zeros where the norm is 0 (norm_backward, FunctionsManual.cpp)."""
    x, out = node.load()
    unit = result(x, None, dtype=out.dtype)
    zero = g.tape.new(out.shape, "bool")
    made = result(x, None, dtype=g.dtype)
    del zero, unit
    return (made,)
