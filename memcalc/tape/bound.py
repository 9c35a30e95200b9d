"""An upper bound for a block without a rule: more than its linear layers and its attention can keep."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from memcalc.tape.autograd import Gradients, Node, record
from memcalc.tensors import tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value
    from memcalc.tensors import Tensor

MATRICES = frozenset({"linear", "conv1d", "expert", "conv"})


def bounded(t: Tape, block: Block, x: Value, _: object) -> Value:
    """An output like the input; kept are fp32 inputs and outputs of every matrix below, and eager scores twice over."""
    above = t.path.removesuffix(block.name).removesuffix(".") if block.name else t.path
    found = [tensor for tensor in tensors(block) if not tensor.buffer]
    weights = tuple(
        t.weight(f".{above}.{w.name}" if above else f".{w.name}", (w.count, *w.shape), w.tied_to) for w in found
    )
    routed = max(int(getattr(part, "top_k", 1)) for part in _below(block) if part is block or hasattr(part, "experts"))
    widths = sum(_widths(w) * (routed if w.role == "expert" else 1) for w in found)
    kept = t.new((prod(x.shape[:-1]) * max(widths, x.shape[-1]) + _scores(block, x),), "fp32")
    out = t.new(x.shape, x.dtype)
    out.node = record(t, _backward, (x, *weights), (kept,))
    return out


def _backward(node: Node, g: Value) -> Gradients:
    node.load()
    return tuple(g.tape.new(edge.shape, edge.dtype) if edge else None for edge in node.edges)


def _widths(tensor: Tensor) -> int:
    """Channels that go into and come out of the matrices of a group, for each token."""
    return tensor.count * sum(tensor.shape[-2:]) if tensor.role in MATRICES and len(tensor.shape) > 1 else 0


def _scores(block: Block, x: Value) -> int:
    """Elements of two copies of the scores of every attention below."""
    heads = sum(int(getattr(part, "heads", 0) or 0) for part in _below(block))
    return 2 * heads * prod(x.shape[:-1]) * (x.shape[-2] if len(x.shape) > 2 else 1)


def _below(block: Block) -> Iterator[Block]:
    yield block
    for _, part in block.groups():
        yield from _below(part)
