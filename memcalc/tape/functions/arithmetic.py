"""Arithmetic of tensors: what each operation saves and what its backward formula allocates (derivatives.yaml)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape.autograd import Gradients, Node, record
from memcalc.tape.values import FLOATS, Value, broadcast, dense_like, promoted, stretched

if TYPE_CHECKING:
    from memcalc.tape.values import Shape


def result(a: Value, node: Node | None, shape: Shape | None = None, dtype: str = "") -> Value:
    """A fresh output of a pointwise operation, laid out like its first full-size input."""
    shape = a.shape if shape is None else shape
    strides = None if a.strides is None or a.shape != shape else dense_like(shape, a.strides)
    out = a.tape.new(shape, dtype or a.dtype, strides)
    out.node = node
    return out


def binary(a: Value, b: Value, node: Node | None, dtype: str = "") -> Value:
    """A fresh output of an operation of two tensors, of the shape that both are stretched to."""
    shape = broadcast(a.shape, b.shape)
    if a.shape == shape or (a.strides is None and b.strides is None):
        return result(a if a.shape == shape else b, node, shape, dtype or _joint(a, b))
    out = a.tape.new(shape, dtype or _joint(a, b), stretched(shape, (a.shape, a.strides), (b.shape, b.strides)))
    out.node = node
    return out


def _joint(a: Value, b: Value) -> str:
    """The dtype of an operation between two tensors; one without axes widens no other of its kind (c10 ResultType)."""
    if a.dtype == b.dtype:
        return a.dtype
    if bool(a.shape) != bool(b.shape) and a.dtype in FLOATS and b.dtype in FLOATS:
        return a.dtype if a.shape else b.dtype
    return promoted(a.dtype, b.dtype)


# --- arithmetic of two tensors


def add(a: Value, b: Value) -> Value:
    """a + b, also a - b: saves nothing."""
    return binary(a, b, record(a.tape, _add_backward, (a, b)))


def _add_backward(_: Node, g: Value) -> Gradients:
    return g, g


def subtract(a: Value, b: Value) -> Value:
    """a - b; the gradient of b is a negated copy."""
    return binary(a, b, record(a.tape, _subtract_backward, (a, b)))


def _subtract_backward(node: Node, g: Value) -> Gradients:
    return g, result(g, None) if node.wants(1) else None


def add_(a: Value, b: Value) -> Value:
    """a += b: no new storage."""
    node = record(a.tape, _add_backward, (a, b))
    return Value(a.tape, a.storage, a.shape, a.dtype, a.strides, node or a.node, 0 if node else a.slot)


def mul(a: Value, b: Value) -> Value:
    """a * b: each is saved where the other needs a gradient."""
    node = record(a.tape, _mul_backward, (a, b), (b if a.node else None, a if b.node else None))
    return binary(a, b, node)


def _mul_backward(node: Node, g: Value) -> Gradients:
    b, a = node.load()
    second = binary(g, a, None) if node.wants(1) else None
    first = binary(g, b, None) if node.wants(0) else None
    return first, second


def mul_(a: Value, b: Value) -> Value:
    """a *= b, in place."""
    node = record(a.tape, _mul_backward, (a, b), (b if a.node else None, a if b.node else None))
    return Value(a.tape, a.storage, a.shape, a.dtype, a.strides, node or a.node, 0 if node else a.slot)


def div(a: Value, b: Value) -> Value:
    """a / b: b is saved, and a where b needs a gradient."""
    node = record(a.tape, _div_backward, (a, b), (b, a if b.node else None))
    return binary(a, b, node)


def _div_backward(node: Node, g: Value) -> Gradients:
    b, a = node.load()
    second = None
    if node.wants(1):  # -grad * ((self / other) / other)
        minus = result(g, None)
        ratio = binary(a, b, None)
        twice = binary(ratio, b, None)
        second = binary(minus, twice, None)
        del twice, ratio, minus
    return binary(g, b, None) if node.wants(0) else None, second


# --- arithmetic with a number


def scale(x: Value) -> Value:
    """x times, or divided by, a number: saves nothing."""
    return result(x, record(x.tape, _scale_backward, (x,)))


def _scale_backward(_: Node, g: Value) -> Gradients:
    return (result(g, None),)


def neg(x: Value) -> Value:
    """-x: saves nothing."""
    return result(x, record(x.tape, _scale_backward, (x,)))


def scale_(x: Value) -> Value:
    """x *= a number, or a tensor that doesn't learn: in place; a new gradient."""
    node = record(x.tape, _scale_backward, (x,))
    return Value(x.tape, x.storage, x.shape, x.dtype, x.strides, node or x.node, 0 if node else x.slot)


def shift(x: Value) -> Value:
    """x plus a number: a new tensor, the gradient passes through."""
    return result(x, record(x.tape, _through, (x,)))


def _through(_: Node, g: Value) -> Gradients:
    return (g,)
