"""Reading by index, and the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape.autograd import Gradients, Node, record, save
from memcalc.tape.functions.arithmetic import mul, result, subtract
from memcalc.tape.functions.casts import to, upper
from memcalc.tape.functions.pointwise import exp
from memcalc.tape.functions.reduce import log_softmax, mean
from memcalc.tape.functions.shaping import alias

if TYPE_CHECKING:
    from memcalc.tape.values import Shape, Value


def embedding(index: Value, weight: Value, rows: int = 0) -> Value:
    """F.embedding: saves the indices; the gradient is as large as the table, or has that of so many `rows`."""
    node = record(weight.tape, _embedding_backward, (weight,), (index,))
    if rows and node and (edge := node.edges[0]):
        edge.shape = rows, *edge.shape[1:]
    out = weight.tape.new((*index.shape, weight.shape[1]), weight.dtype)
    out.node = node
    return out


def _embedding_backward(node: Node, g: Value) -> Gradients:
    _saved = node.load()
    return (g.tape.new(node.shape(0), g.dtype),)


def embedding_bag(index: Value, weight: Value, factors: Value) -> Value:
    """F.embedding_bag of [rows, n] indices, summed: saves them and their factors; the gradient is as large as the table."""
    tape, rows = weight.tape, index.shape[0]
    bags = tape.new((rows,), "int64"), tape.new((rows,), "int64"), tape.new((index.elements,), "int64")
    node = record(tape, _embedding_backward, (weight,), (index, factors, *bags))
    out = tape.new((rows, weight.shape[1]), weight.dtype)
    out.node = node
    return out


def gather(x: Value, index: Value, shape: Shape) -> Value:
    """x.gather / x[index] / index_select of `shape`: saves the indices; the gradient is as large as x."""
    node = record(x.tape, _embedding_backward, (x,), (index,))
    out = x.tape.new(shape, x.dtype)
    out.node = node
    return out


def take_along(x: Value, where: Value, shape: Shape) -> Value:
    """torch.gather: saves x (whose shape its backward reads) and the indices; the gradient is zeros, and a filled copy."""
    node = record(x.tape, _index_backward, (x,), (where, x))
    out = x.tape.new(shape, x.dtype)
    out.node = node
    return out


def pick(x: Value, where: Value, shape: Shape) -> Value:
    """torch.gather as it runs outside of the model: its gradient is scattered into zeros in place (gather_backward)."""
    node = record(x.tape, _embedding_backward, (x,), (where, x))
    out = x.tape.new(shape, x.dtype)
    out.node = node
    return out


def index(x: Value, where: Value, shape: Shape) -> Value:
    """x[where] of `shape`: saves the indices; the gradient is zeros, and a copy with the rows put in."""
    node = record(x.tape, _index_backward, (x,), (where,))
    out = x.tape.new(shape, x.dtype)
    out.node = node
    return out


def _index_backward(node: Node, g: Value) -> Gradients:
    _index = node.load()
    zeros = g.tape.new(node.shape(0), g.dtype)
    out = g.tape.new(zeros.shape, g.dtype)
    del zeros
    return (out,)


def scatter(x: Value, index: Value, source: Value) -> Value:
    """x.scatter_(index, source), in place: saves the indices; the source's gradient is gathered."""
    node = record(x.tape, _scatter_backward, (x, source), (index,))
    return alias(x, x.shape, x.strides, node)


def _scatter_backward(node: Node, g: Value) -> Gradients:
    _index = node.load()
    whole, part = node.edges
    return g.tape.new(g.shape, g.dtype) if whole else None, g.tape.new(part.shape, g.dtype) if part else None


def index_copy(x: Value, index: Value, source: Value) -> Value:
    """x.index_copy(0, index, source): a copy of x with those rows; saves the indices."""
    node = record(x.tape, _index_copy_backward, (x, source), (index,))
    out = x.tape.new(x.shape, x.dtype)
    out.node = node
    return out


def _index_copy_backward(node: Node, g: Value) -> Gradients:
    _index = node.load()
    whole, part = node.edges
    return g.tape.new(g.shape, g.dtype) if whole else None, g.tape.new(part.shape, g.dtype) if part else None


def index_add_(x: Value, index: Value, source: Value) -> Value:
    """x.index_add_(0, index, source), in place: saves the indices and the source; the source's gradient is gathered."""
    node = record(x.tape, _index_add_backward, (x, source), (index, source))
    return alias(x, x.shape, x.strides, node)


def _index_add_backward(node: Node, g: Value) -> Gradients:
    _saved = node.load()
    part = node.edges[1]
    return g, g.tape.new(part.shape, g.dtype) if part else None


def topk(x: Value, k: int) -> tuple[Value, Value]:
    """The k largest of each row and their indices, which are saved; the gradient is scattered into zeros."""
    node = record(x.tape, _topk_backward, (x,))
    shape = (*x.shape[:-1], k)
    values, indices = x.tape.new(shape, x.dtype), x.tape.new(shape, "int64")
    values.node = node
    save(x.tape, node, indices)
    return values, indices


def _topk_backward(node: Node, g: Value) -> Gradients:
    _indices = node.load()
    zeros = g.tape.new(node.shape(0), g.dtype)
    out = g.tape.new(zeros.shape, g.dtype)
    del zeros
    return (out,)


def masked_scatter(x: Value, mask: Value, source: Value) -> Value:
    """x.masked_scatter(mask, source): x with the rows of `source` where the mask says so; saves the mask."""
    node = record(x.tape, _masked_scatter_backward, (x, source), (mask,))
    out = x.tape.new(x.shape, x.dtype)
    out.node = node
    return out


def _masked_scatter_backward(node: Node, g: Value) -> Gradients:
    _mask = node.load()
    rest = g.tape.new(g.shape, g.dtype) if node.edges[0] else None
    return rest, g.tape.new(node.edges[1].shape, g.dtype) if node.edges[1] else None


def cross_entropy(logits: Value, labels: Value) -> Value:
    """F.cross_entropy of [rows, classes]: log-softmax and the negative log-likelihood of the labels."""
    logits = upper(logits)
    scores = log_softmax(logits)
    del logits
    tape = scores.tape
    node = record(tape, _nll_backward, (scores,), (scores, labels))
    loss, weight = tape.new((), scores.dtype), tape.new((), scores.dtype)
    if node:
        node.saved.append(weight if tape.saving is None else tape.saving(weight))
    loss.node = node
    return loss


def _nll_backward(node: Node, g: Value) -> Gradients:
    scores, *_ = node.load()
    return (g.tape.new(scores.shape, scores.dtype),)


def ctc_loss(scores: Value, targets: int) -> Value:
    """F.ctc_loss of log-probabilities [frames, batch, classes]: saves them and the paths' own [batch, frames, 2 n + 1]."""
    tape, (frames, batch, _) = scores.tape, scores.shape
    node = record(tape, _ctc_backward, (scores,), (scores,))
    each = tape.new((batch,), scores.dtype)
    each.node = node
    save(tape, node, tape.new((batch, frames, 2 * targets + 1), scores.dtype))
    return mean(each, 0, keep=False)


def _ctc_backward(node: Node, g: Value) -> Gradients:
    scores, *_ = node.load()
    return (g.tape.new(scores.shape, scores.dtype),)


def mse_loss(x: Value, target: Value) -> Value:
    """F.mse_loss: saves both."""
    x, target = upper(x), upper(target)
    node = record(x.tape, _mse_backward, (x,), (x, target))
    loss = x.tape.new((), x.dtype)
    loss.node = node
    return loss


def _mse_backward(node: Node, g: Value) -> Gradients:
    x, _ = node.load()
    return (x.tape.new(x.shape, x.dtype),)


def bce_with_logits(x: Value, target: Value) -> Value:
    """F.binary_cross_entropy_with_logits: saves both (aten/src/ATen/native/Loss.cpp)."""
    x, target = upper(x), upper(target)
    node = record(x.tape, _mse_backward, (x,), (x, target))
    sigmoid, each = x.tape.new(x.shape, x.dtype), x.tape.new(x.shape, x.dtype)
    loss = x.tape.new((), x.dtype)
    del sigmoid, each
    loss.node = node
    return loss


def kl_div(x: Value, target: Value) -> Value:
    """F.kl_div of logarithms, a number each: exp(target) * (target - x) (aten/src/ATen/native/Loss.cpp, kl_div)."""
    less = subtract(target, x)  # the second operand comes first
    return mul(exp(target), less)


__all__ = [
    "alias",
    "bce_with_logits",
    "cross_entropy",
    "embedding",
    "gather",
    "index",
    "mse_loss",
    "pick",
    "result",
    "to",
    "topk",
]
