"""Shapes: views, which cost nothing, and the copies that some of them force."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from memcalc.tape.autograd import Gradients, Node, record
from memcalc.tape.values import (
    Shape,
    Value,
    contiguous_strides,
    inverted,
    normal,
    permuted,
    viewed,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def alias(x: Value, shape: Shape, strides: Shape | None, node: Node | None) -> Value:
    """Another look at the storage of x."""
    return Value(x.tape, x.storage, shape, x.dtype, strides, node)


def strides_of(x: Value) -> Shape:
    """Its strides, in elements, spelled out."""
    return contiguous_strides(x.shape) if x.strides is None else x.strides


def clone(x: Value) -> Value:
    """A contiguous copy; the gradient passes through."""
    out = x.tape.new(x.shape, x.dtype)
    out.node = record(x.tape, _clone_backward, (x,))
    return out


def _clone_backward(_: Node, g: Value) -> Gradients:
    return (g,)


def contiguous(x: Value) -> Value:
    """x itself where it is contiguous, else a copy."""
    return x if x.strides is None else clone(x)


def reshape(x: Value, *shape: int) -> Value:
    """A view where the strides allow one, else a contiguous copy (at::reshape)."""
    if -1 in shape:
        known = -prod(shape)
        shape = tuple(x.elements // known if size == -1 else size for size in shape)
    if x.strides is None:
        return alias(x, shape, None, record(x.tape, _view_backward, (x,), (), x.shape))
    seen = viewed(x.shape, x.strides, shape)
    if seen is None:
        x = clone(x)
        return alias(x, shape, None, record(x.tape, _view_backward, (x,), (), x.shape))
    return alias(x, shape, normal(shape, seen), record(x.tape, _view_backward, (x,), (), x.shape))


view = reshape


def _view_backward(node: Node, g: Value) -> Gradients:
    return (alias(g, node.meta, None, None) if g.strides is None else reshape(g, *node.meta),)


def transpose(x: Value, first: int, second: int) -> Value:
    """Two axes exchanged."""
    first, second = first % len(x.shape), second % len(x.shape)
    axes = list(range(len(x.shape)))
    axes[first], axes[second] = second, first
    return permute(x, *axes)


def permute(x: Value, *axes: int) -> Value:
    """Axes in another order."""
    shape, strides = permuted(x.shape, x.strides, axes)
    return alias(x, shape, strides, record(x.tape, _permute_backward, (x,), (), axes))


def _permute_backward(node: Node, g: Value) -> Gradients:
    return (permute(g, *inverted(node.meta)),)


def unsqueeze(x: Value, axis: int) -> Value:
    """An axis of size 1 put in."""
    axis %= len(x.shape) + 1
    shape = (*x.shape[:axis], 1, *x.shape[axis:])
    if x.strides is None:
        return alias(x, shape, None, record(x.tape, _squeeze_backward, (x,), (), x.shape))
    strides = (*x.strides[:axis], 1, *x.strides[axis:])
    return alias(x, shape, strides, record(x.tape, _squeeze_backward, (x,), (), x.shape))


def squeeze(x: Value, axis: int) -> Value:
    """An axis of size 1 taken out."""
    axis %= len(x.shape)
    old, shape = strides_of(x), (*x.shape[:axis], *x.shape[axis + 1 :])
    strides = normal(shape, (*old[:axis], *old[axis + 1 :]))
    return alias(x, shape, strides, record(x.tape, _squeeze_backward, (x,), (), x.shape))


def _squeeze_backward(node: Node, g: Value) -> Gradients:
    return (reshape(g, *node.meta),)


def expand(x: Value, *shape: int) -> Value:
    """Axes of size 1 shown as longer ones, by a stride of 0; the gradient is summed."""
    lead = len(shape) - len(x.shape)
    old = (0,) * lead + strides_of(x)
    sizes = (1,) * lead + x.shape
    shape = tuple(sizes[i] if size == -1 else size for i, size in enumerate(shape))
    if shape == x.shape:
        return x
    strides = tuple(0 if size == 1 and want != 1 else step for size, want, step in zip(sizes, shape, old, strict=True))
    return alias(x, shape, strides, record(x.tape, _expand_backward, (x,), (), x.shape))


def _expand_backward(node: Node, g: Value) -> Gradients:
    return (g if g.shape == node.meta else g.tape.new(node.meta, g.dtype),)


def repeat_interleave(x: Value, times: int, axis: int) -> Value:
    """Every index of an axis `times` times in a row: always a copy."""
    shape = list(x.shape)
    shape[axis] *= times
    spread = list(x.shape)
    spread.insert(axis + 1, times)
    return reshape(clone(expand(unsqueeze(x, axis + 1), *spread)), *shape)


def repeat(x: Value, times: int, axis: int = 0) -> Value:
    """x.repeat of one axis: copies one behind the other; the gradient is their sum."""
    out = x.tape.new((*x.shape[:axis], times * x.shape[axis], *x.shape[axis + 1 :]), x.dtype)
    out.node = record(x.tape, _repeat_backward, (x,), (), x.shape)
    return out


def _repeat_backward(node: Node, g: Value) -> Gradients:
    """repeat_backward: nothing to add up where there is one copy."""
    return (g if g.shape == node.meta else g.tape.new(node.meta, g.dtype),)


def narrow(x: Value, axis: int, size: int) -> Value:
    """A slice of `size` along an axis: a view; its gradient is as large as the whole (slice_backward).

    Python's x[..., :size] of all there is takes no slice, and its gradient passes through (applySlice).
    """
    axis %= len(x.shape)
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    if shape == x.shape:
        return alias(x, shape, x.strides, record(x.tape, _clone_backward, (x,)))
    return alias(x, shape, normal(shape, strides_of(x)), record(x.tape, _slice_backward, (x,), (), x.shape))


def _slice_backward(node: Node, g: Value) -> Gradients:
    return (g.tape.new(node.meta, g.dtype),)


def select(x: Value, axis: int) -> Value:
    """One index of an axis: a view without it; its gradient is as large as the whole (select_backward)."""
    axis %= len(x.shape)
    old, shape = strides_of(x), (*x.shape[:axis], *x.shape[axis + 1 :])
    strides = normal(shape, (*old[:axis], *old[axis + 1 :]))
    return alias(x, shape, strides, record(x.tape, _slice_backward, (x,), (), x.shape))


def split(x: Value, sizes: Sequence[int], axis: int = -1) -> tuple[Value, ...]:
    """Views of parts along an axis, by one node: the gradients are put together again by one cat."""
    axis %= len(x.shape)
    node = record(x.tape, _split_backward, (x,), (), (x.shape, axis, sizes))
    if node:
        node.width = len(sizes)
    old = strides_of(x)
    parts = []
    for slot, size in enumerate(sizes):
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        part = alias(x, shape, normal(shape, old), node)
        part.slot = slot
        parts.append(part)
    return tuple(parts)


def chunk(x: Value, parts: int, axis: int = -1) -> tuple[Value, ...]:
    """`parts` equal views along an axis."""
    return split(x, (x.shape[axis] // parts,) * parts, axis)


def _split_backward(node: Node, *grads: Value) -> Gradients:
    shape, axis, sizes = node.meta
    some = next(g for g in grads if g is not None)
    zeros = [
        some.tape.new((*shape[:axis], size, *shape[axis + 1 :]), some.dtype) if g is None else g
        for g, size in zip(grads, sizes, strict=True)
    ]
    out = some.tape.new(shape, some.dtype)
    del zeros
    return (out,)


def unbind(x: Value, axis: int = 0) -> tuple[Value, ...]:
    """Views of each index of an axis, by one node: the gradients are stacked."""
    axis %= len(x.shape)
    node = record(x.tape, _unbind_backward, (x,), (), (x.shape, axis))
    if node:
        node.width = x.shape[axis]
    old, shape = strides_of(x), (*x.shape[:axis], *x.shape[axis + 1 :])
    strides = normal(shape, (*old[:axis], *old[axis + 1 :]))
    parts = []
    for slot in range(x.shape[axis]):
        part = alias(x, shape, strides, node)
        part.slot = slot
        parts.append(part)
    return tuple(parts)


def _unbind_backward(node: Node, *grads: Value) -> Gradients:
    shape, _ = node.meta
    some = next(g for g in grads if g is not None)
    zeros = [some.tape.new(some.shape, some.dtype) if g is None else g for g in grads]
    out = some.tape.new(shape, some.dtype)
    del zeros
    return (out,)


def as_strided(x: Value, shape: Shape, strides: Shape) -> Value:
    """Another look at a contiguous tensor, where elements may be seen more than once.

    Going back they are added up by their places in the storage (as_strided_backward, FunctionsManual.cpp).
    """
    return alias(x, shape, normal(shape, strides), record(x.tape, _strided_backward, (x,), (), x.shape))


def _strided_backward(node: Node, g: Value) -> Gradients:
    summed, places = g.tape.new(node.meta, g.dtype), g.tape.new(node.meta, "int64")
    where, flat = g.tape.new((g.elements,), "int64"), contiguous(g)
    del places, where, flat
    return (summed,)
