"""DTensor's redistributions between the parts of a layer that tensor-parallel ranks share (torch/distributed/tensor)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.parallel import Gather, Scatter
from memcalc.tape.autograd import Gradients, Node, record
from memcalc.tape.rules import Around, rule

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Shape, Value


@rule(Gather)
def gather(t: Tape, block: Gather, x: Value, _: Around) -> Value:
    """Shard(1) to Replicate."""
    return _redistributed(t, x, (*x.shape[:-2], x.shape[-2] * block.ranks, x.shape[-1]))


@rule(Scatter)
def scatter(t: Tape, block: Scatter, x: Value, _: Around) -> Value:
    """Partial to Shard(1)."""
    return _redistributed(t, x, (*x.shape[:-2], x.shape[-2] // block.ranks, x.shape[-1]))


def _redistributed(t: Tape, x: Value, shape: Shape) -> Value:
    node = record(t, _backward, (x,), (), x.shape)
    out = t.new(shape, x.dtype)
    out.node = node
    return out


def _backward(node: Node, g: Value) -> Gradients:
    return (g.tape.new(node.meta, g.dtype),)
