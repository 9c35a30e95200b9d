"""Functions that write into a part of a tensor (torch/csrc/autograd/functions/tensor.cpp, CopySlices)."""

from __future__ import annotations

from memcalc.tape.autograd import Gradients, Node, record
from memcalc.tape.values import Value


def addcmul_(x: Value, a: Value, b: Value) -> Value:
    """part += a * b for a part of x, where a does not learn: saves a; the gradient of x is copied, and cut for b's."""
    node = record(x.tape, _addcmul_backward, (x, b), (a,), x.strides)
    return Value(x.tape, x.storage, x.shape, x.dtype, x.strides, node or x.node, 0 if node else x.slot)


def _addcmul_backward(node: Node, g: Value) -> Gradients:
    (a,) = node.load()
    whole, part = g.tape.new(g.shape, g.dtype, node.meta), node.edges[1]
    cut = g.tape.new(node.shape(1), g.dtype) if part else None
    scaled = g.tape.new(a.shape, a.dtype) if part else None
    second = g.tape.new(node.shape(1), g.dtype) if part else None
    del scaled, cut
    return (whole if node.edges[0] else None, second)


def put_(x: Value, where: Value, rows: Value) -> Value:
    """x[where] = rows, in place: saves the indices; the gradient is copied with zeros there, and the rows' picked from it."""
    node = record(x.tape, _put_backward, (x, rows), (where,))
    return Value(x.tape, x.storage, x.shape, x.dtype, x.strides, node or x.node, 0 if node else x.slot)


def _put_backward(node: Node, g: Value) -> Gradients:
    _where = node.load()
    whole, part = node.edges
    zeros = g.tape.new(node.shape(1), g.dtype) if whole and part else None
    first = g.tape.new(g.shape, g.dtype) if whole else None
    del zeros
    return first, g.tape.new(part.shape, g.dtype) if part else None
