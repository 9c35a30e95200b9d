"""Copies into new tensors or places: parts put together, padded, shifted, assigned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape.autograd import Gradients, Node, record
from memcalc.tape.functions.shaping import narrow, unsqueeze
from memcalc.tape.values import Shape, Value, dense_like, normal, promoted

if TYPE_CHECKING:
    from collections.abc import Sequence


def cat(parts: Sequence[Value], axis: int = -1, size: int = 0) -> Value:
    """Parts along an axis, copied into a new tensor; the gradients are views of its gradient.

    `size` is that of the axis where the parts stand for more than there are (memcalc.tape.loops).
    """
    first = parts[0]
    axis %= len(first.shape)
    size = size or sum(p.shape[axis] for p in parts)
    shape = (*first.shape[:axis], size, *first.shape[axis + 1 :])
    node = record(first.tape, _cat_backward, tuple(parts), (), (axis, [p.shape[axis] for p in parts]))
    dtype = first.dtype
    for part in parts:
        dtype = dtype if part.dtype == dtype else promoted(dtype, part.dtype)
    out = first.tape.new(shape, dtype, _format(shape, parts))
    out.node = node
    return out


def _format(shape: Shape, parts: Sequence[Value]) -> Shape | None:
    """Strides in the memory format of the parts where it is the same for all (compute_output_memory_format)."""
    if any(part.strides is None for part in parts) or any(in_format(part.shape, part) is None for part in parts):
        return None
    return in_format(shape, parts[0])


def _cat_backward(node: Node, g: Value) -> Gradients:
    axis, sizes = node.meta
    return tuple(narrow(g, axis, size) if node.wants(i) else None for i, size in enumerate(sizes))


def stack(parts: Sequence[Value], axis: int = 0, size: int = 0) -> Value:
    """Parts side by side along a new axis, of `size` where they stand for more than there are."""
    return cat([unsqueeze(p, axis) for p in parts], axis, size)


def pad(x: Value, axis: int, extra: int) -> Value:
    """constant_pad_nd: a longer copy in x's memory format; with nothing to add a clone laid out like x."""
    axis %= len(x.shape)
    shape = (*x.shape[:axis], x.shape[axis] + extra, *x.shape[axis + 1 :])
    out = x.tape.new(shape, x.dtype, in_format(shape, x) if extra else dense_like(shape, x.strides))
    out.node = record(x.tape, _pad_backward, (x,), (), x.shape)
    return out


def in_format(shape: Shape, x: Value) -> Shape | None:
    """Strides of a new tensor in the memory format that x's strides suggest (c10/core/MemoryFormat.h): channels last, or none."""
    rank = len(x.shape)
    if x.strides is None or rank not in (4, 5):
        return None
    least, order = 0, (1, *range(rank - 1, 1, -1), 0)
    for axis in order:
        if x.strides[axis] < least or (axis == 0 and least == x.strides[1]):
            return None
        least = x.strides[axis] * x.shape[axis]
    made, step = [0] * rank, 1
    for axis in order:
        made[axis] = step
        step *= shape[axis]
    return normal(shape, tuple(made))


def pad_both(x: Value, axes: tuple[int, int], sizes: tuple[int, int]) -> Value:
    """The same along two axes, to these sizes."""
    shape = tuple(sizes[axes.index(axis)] if axis in axes else size for axis, size in enumerate(x.shape))
    out = x.tape.new(shape, x.dtype)
    out.node = record(x.tape, _pad_backward, (x,), (), x.shape)
    return out


def _pad_backward(node: Node, g: Value) -> Gradients:
    return (g.tape.new(node.meta, g.dtype, dense_like(node.meta, g.strides)),)


def roll(x: Value) -> Value:
    """torch.roll: a shifted copy, and one for the gradient."""
    out = x.tape.new(x.shape, x.dtype)
    out.node = record(x.tape, _pad_backward, (x,), (), x.shape)
    return out


def assign(x: Value, part: Value) -> Value:
    """x[…, i] = part, in place: going back the gradient is copied, and the part's own gradient cut out of it.

    torch/csrc/autograd/functions/tensor.cpp, CopySlices::apply.
    """
    node = record(x.tape, _assign_backward, (x, part), (), x.strides)
    return Value(x.tape, x.storage, x.shape, x.dtype, x.strides, node or x.node, 0 if node else x.slot)


def _assign_backward(node: Node, g: Value) -> Gradients:
    whole, part = g.tape.new(g.shape, g.dtype, node.meta), node.edges[1]
    cut = g.tape.new(part.shape, g.dtype) if part else None
    if part and part.dtype != g.dtype:
        cut = g.tape.new(part.shape, part.dtype)
    zeros = g.tape.new(part.shape, g.dtype) if part and node.edges[0] else None
    del zeros
    return (whole if node.edges[0] else None, cut)
