"""Matrix products and convolutions."""

from __future__ import annotations

from math import prod

from memcalc.errors import RunInvalid, fault
from memcalc.tape.autograd import Gradients, Node, record, save
from memcalc.tape.functions.arithmetic import add, add_, scale
from memcalc.tape.functions.casts import lower
from memcalc.tape.functions.shaping import expand, reshape, transpose
from memcalc.tape.keeping import output
from memcalc.tape.values import Shape, Value, broadcast, contiguous_strides, normal


def linear(x: Value, weight: Value, bias: Value | None = None) -> Value:
    """F.linear: saves its input where the weight learns, and the weight where the input needs a gradient."""
    x, weight, bias = lower(x), lower(weight), bias and lower(bias)
    if len(x.shape) > 2 and x.strides is not None:
        out = reshape(linear(reshape(x, -1, x.shape[-1]), weight), *x.shape[:-1], weight.shape[0])
        return with_bias(out, bias) if bias else out
    saved = (x if weight.node or x.tape.setting.keeps_inputs else None, weight if x.node else None)
    saved = (
        saved[::-1] if bias is None else saved
    )  # mm(x, weight) has its factors the other way round, addmm as they come
    flops = 2 * x.elements * weight.shape[0]
    shape, ours = (*x.shape[:-1], weight.shape[0]), x.tape.setting.keeps_inputs
    made = x.tape.new(shape, x.dtype) if ours else None  # setup_context saves when the output is there
    formula = _linear_backward if bias is None else _biased_backward if ours else _added_backward
    inputs = (bias, x, weight) if formula is _added_backward else (x, weight, bias)
    node = record(x.tape, formula, inputs, saved, flops)
    x.tape.multiplied(flops)
    if node:
        node.flattens = len(x.shape) > 2
    out = made or (output(x.tape, "mm", shape, x.dtype) if bias is None else x.tape.new(shape, x.dtype))
    out.node = node
    return out


def with_bias(out: Value, bias: Value) -> Value:
    """at::linear of rows that don't lie side by side: the bias is added to the product, in place unless tensors are not plain."""
    return add_(out, bias) if out.tape.adds_in_place else add(out, bias)


def _multiplied(node: Node, g: Value, first: int = 0) -> None:
    """The products for a product's gradients: one as large for each of its two factors that asks for one."""
    g.tape.multiplied(node.meta * sum(edge is not None for edge in node.edges[first : first + 2]))


def _linear_backward(node: Node, g: Value) -> Gradients:
    _saved = node.load()
    _multiplied(node, g)
    second = g.tape.new(node.shape(1), g.dtype) if node.edges[1] else None
    first = g.tape.new(node.shape(0), g.dtype) if node.edges[0] else None
    return first, second, None


def _biased_backward(node: Node, g: Value) -> Gradients:
    """LinearFunctionForZeroStage3.backward: the weight's gradient is there before the bias's (deepspeed/runtime/zero/linear.py)."""
    _saved = node.load()
    _multiplied(node, g)
    first, second = (g.tape.new(edge.shape, g.dtype) if edge else None for edge in node.edges[:2])
    return first, second, g if node.edges[2] else None  # which is summed up for the bias


def addmm(x: Value, weight: Value, bias: Value) -> Value:
    """torch.addmm(bias, x, weight) with weight [inputs, outputs]: GPT-2's Conv1D."""
    bias, x, weight = lower(bias), lower(x), lower(weight)
    saved = (x if weight.node else None, weight if x.node else None)
    flops = 2 * x.elements * weight.shape[1]
    node = record(x.tape, _added_backward, (bias, x, weight), saved, flops)
    x.tape.multiplied(flops)
    out = x.tape.new((x.shape[0], weight.shape[1]), x.dtype)
    out.node = node
    return out


def mm(x: Value, b: Value) -> Value:
    """x @ b of rows and a contiguous matrix [inputs, outputs], whose gradient lies in memory as it does."""
    x, b = lower(x), lower(b)
    flops = 2 * x.elements * b.shape[1]
    node = record(x.tape, _linear_backward, (x, b), (x if b.node else None, b if x.node else None), flops)
    x.tape.multiplied(flops)
    out = output(x.tape, "mm", (*x.shape[:-1], b.shape[1]), x.dtype)
    out.node = node
    return out


def bmm(a: Value, b: Value) -> Value:
    """Batched product of [n, p, q] and [n, q, r]: saves both."""
    flops = 2 * a.elements * b.shape[2]
    node = record(a.tape, _bmm_backward, (a, b), (b if a.node else None, a if b.node else None), flops)
    a.tape.multiplied(flops)
    out = a.tape.new((a.shape[0], a.shape[1], b.shape[2]), a.dtype)
    out.node = node
    return out


def _bmm_backward(node: Node, g: Value) -> Gradients:
    _saved = node.load()
    _multiplied(node, g)
    second = g.tape.new(node.shape(1), g.dtype) if node.edges[1] else None
    first = g.tape.new(node.shape(0), g.dtype) if node.edges[0] else None
    return first, second


def grouped_mm(x: Value, weight: Value, offsets: Value) -> Value:
    """F.grouped_mm of rows [S, inputs], sorted by expert, with weight [experts, inputs, outputs]: saves all three."""
    saved = (x if weight.node else None, weight if x.node else None, offsets)
    flops = 2 * x.elements * weight.shape[2]
    node = record(x.tape, _grouped_backward, (x, weight), saved, (flops, weight.strides))
    x.tape.multiplied(flops)
    out = x.tape.new((x.shape[0], weight.shape[2]), x.dtype)
    out.node = node
    return out


def _grouped_backward(node: Node, g: Value) -> Gradients:
    _saved = node.load()
    flops, strides = node.meta
    g.tape.multiplied(flops * (bool(node.edges[0]) + bool(node.edges[1])))
    second = g.tape.new(node.shape(1), g.dtype, strides) if node.edges[1] else None
    first = g.tape.new(node.shape(0), g.dtype) if node.edges[0] else None
    return first, second


def matmul(a: Value, b: Value) -> Value:
    """torch.matmul of batched operands: broadcast, folded to three axes (a copy where the strides demand it), bmm.

    What autocast has cast for it lives as long as the call.
    """
    lead = broadcast(a.shape[:-2], b.shape[:-2])
    n, p, q, r = prod(lead), a.shape[-2], a.shape[-1], b.shape[-1]
    a, b = lower(a), lower(b)
    left = reshape(expand(a, *lead, p, q), n, p, q)
    right = reshape(expand(b, *lead, q, r), n, q, r)
    out = bmm(left, right)
    del right, left  # as C++ ends the life of locals: the last first, and before what the caller has made for the call
    return reshape(out, *lead, p, r)


def baddbmm(bias: Value, a: Value, b: Value, *, scaled: bool = False) -> Value:
    """bias + a b in one kernel: saves a and b. `scaled` where alpha isn't 1: the gradients are multiplied by it."""
    a, b = lower(a), lower(b)
    flops = 2 * a.elements * b.shape[2]
    saved = (a if b.node else None, b if a.node else None)
    node = record(a.tape, _scaled_backward if scaled else _added_backward, (bias, a, b), saved, flops)
    a.tape.multiplied(flops)
    out = a.tape.new((a.shape[0], a.shape[1], b.shape[2]), a.dtype)
    out.node = node
    return out


def _added_backward(node: Node, g: Value) -> Gradients:
    """What addmm and baddbmm have in common: what is added comes first, and has its gradient first; it may be summed up for it."""
    _saved = node.load()
    _multiplied(node, g, 1)
    made = [g.tape.new(edge.shape, g.dtype) if edge else None for edge in node.edges[1:]]
    return (g if node.edges[0] else None, *made)


def _scaled_backward(node: Node, g: Value) -> Gradients:
    """maybe_multiply(grad.bmm(…), alpha), for either factor."""
    _saved = node.load()
    _multiplied(node, g, 1)
    made = [scale(g.tape.new(edge.shape, g.dtype)) if edge else None for edge in node.edges[1:]]
    return (g if node.edges[0] else None, *made)


def solve_triangular(a: Value, b: Value) -> Value:
    """torch.linalg.solve_triangular(a, b): saves a and its output, which lies in memory column by column."""
    node = record(a.tape, _solve_backward, (a, b), (a,))
    *lead, rows, columns = b.shape
    turned = (*lead, columns, rows)
    strides = contiguous_strides(turned)
    out = a.tape.new(b.shape, b.dtype, (*strides[:-2], strides[-1], strides[-2]))
    out.node = node
    save(a.tape, node, out)
    return out


def _solve_backward(node: Node, g: Value) -> Gradients:
    """linalg_solve_triangular_backward (torch/csrc/autograd/FunctionsManual.cpp)."""
    a, out = node.load()
    second = g.tape.new(out.shape, out.dtype, out.strides)
    first = None
    if node.wants(0):
        product = matmul(second, swap(out))
        minus = scale(product)
        del product
        first = g.tape.new(a.shape, a.dtype)
        del minus
    return first, second if node.wants(1) else None


def conv(x: Value, weight: Value, bias: Value | None, out_size: tuple[int, ...]) -> Value:
    """F.conv1d/2d/3d: saves its input and its weight; x is [batch, channels, *size].

    Where the channels of x lie last in memory, so do those of the output and of the gradients
    (at::native::_determine_backend_memory_format).
    """
    x, weight, bias = lower(x), lower(weight), bias and lower(bias)
    if min(out_size) < 1:
        raise _too_small(x.shape[2:], weight.shape[2:])
    last = channels_last(x)
    shape = (x.shape[0], weight.shape[0], *out_size)
    flops = 2 * prod(shape) * prod(weight.shape[1:])
    node = record(x.tape, _conv_backward, (x, weight, bias), (x, weight), (flops, last, weight.strides))
    x.tape.multiplied(flops)
    out = x.tape.new(shape, x.dtype, with_channels_last(shape) if last else None)
    out.node = node
    return out


def _too_small(size: Shape, kernel: Shape) -> RunInvalid:
    """What PyTorch says of an input (padded) that its kernel does not fit into."""
    what, where = ("sequence", "seq_len") if len(size) == 1 else ("image", "image_size")
    held, needed = (" x ".join(map(str, sizes)) for sizes in (size, kernel))
    return fault(
        where, f"the {what} is too small for the model's convolutions: one is left {held} for a kernel of {needed}"
    )


def _conv_backward(node: Node, g: Value) -> Gradients:
    _saved = node.load()
    flops, last, laid = node.meta
    g.tape.multiplied(flops * (bool(node.edges[0]) + bool(node.edges[1])))
    layouts = [with_channels_last(edge.shape) if edge and last and len(edge.shape) > 1 else None for edge in node.edges]
    layouts[1] = layouts[1] or laid  # a weight that is a view of another's has its gradient laid out alike
    return tuple(
        g.tape.new(edge.shape, g.dtype, layout) if edge else None
        for edge, layout in zip(node.edges, layouts, strict=True)
    )


def channels_last(x: Value) -> bool:
    """Whether a map's channels lie last in memory (c10/core/MemoryFormat.h, is_channels_last_strides_2d)."""
    if x.strides is None or len(x.shape) not in (4, 5):
        return False
    least, axes = 0, (1, *range(len(x.shape) - 1, 1, -1), 0)
    for axis in axes:
        if x.strides[axis] < least or not x.strides[1] or (axis == 0 and least == x.strides[1]):
            return False
        least = x.strides[axis] * x.shape[axis]
    return True


def with_channels_last(shape: Shape) -> Shape | None:
    """Strides of a contiguous map whose channels lie last in memory."""
    moved = contiguous_strides((shape[0], *shape[2:], shape[1]))
    return normal(shape, (moved[0], moved[-1], *moved[1:-1]))


def swap(x: Value) -> Value:
    """The last two axes exchanged."""
    return transpose(x, -2, -1)
