"""DTensor between the parts of a layer that tensor-parallel ranks share, and behind the last (torch/distributed/tensor)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.parallel import Gather, Scatter
from memcalc.tape.autograd import Gradients, Node, record, save
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


def cross_entropy(t: Tape, logits: Value) -> Value:
    """loss_parallel: every rank has a part of the vocabulary (torch/distributed/tensor/parallel/loss.py)."""
    node = record(t, _whole, (logits,))
    result = _log_softmax(t, logits)
    save(t, node, result)
    result.node = node
    loss = t.new((), result.dtype)
    loss.node = record(t, _lost, (result,), (result,))
    return loss


def _log_softmax(t: Tape, x: Value) -> Value:
    """Shifted by the largest, and by the logarithm of the sum of the exponentials."""
    shifted = t.new(x.shape, x.dtype)
    exponentials = t.new(x.shape, x.dtype)
    del exponentials
    result = t.new(x.shape, x.dtype)
    del shifted
    return result


def _whole(node: Node, g: Value) -> Gradients:
    """_log_softmax_backward_handler: the loss's own backward formula has done it."""
    _result = node.load()
    return (g,)


def _lost(node: Node, _: Value) -> Gradients:
    """_nll_loss_and_log_softmax_backward: (grad_input + exp(x)) * grad_output."""
    (x,) = node.load()
    t = x.tape
    grad_input = t.new(x.shape, x.dtype)
    exponentials = t.new(x.shape, x.dtype)
    both = t.new(x.shape, x.dtype)
    del exponentials
    out = t.new(x.shape, x.dtype)
    del grad_input, both
    return (out,)
