"""DTensor between the parts of a layer that tensor-parallel ranks share, and behind the last (torch/distributed/tensor)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.parallel import Gather, GatherChannels, Scatter, SplitChannels
from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record, save
from memcalc.tape.keeping import output
from memcalc.tape.rules import Around, rule
from memcalc.tape.values import dense_like

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Shape, Value


@rule(Gather)
def gather(t: Tape, block: Gather, x: Value, _: Around) -> Value:
    """Shard(1) to Replicate; fused_all_gather_matmul has the parts where the products read them (_symmetric_memory)."""
    node = record(t, _gather_backward, (x,), (), x.shape)
    shape = (*x.shape[:-2], x.shape[-2] * block.ranks, x.shape[-1])
    out = t.new(shape, x.dtype) if block.overlapped else _gathered_rows(x, shape)
    out.node = node
    return out


@rule(Scatter)
def scatter(t: Tape, block: Scatter, x: Value, _: Around) -> Value:
    """Partial to Shard(1); fused_matmul_reduce_scatter makes the parts in a row, and its gradient's are read as above."""
    node = record(t, _overlapped_backward if block.overlapped else _scatter_backward, (x,), (), x.shape)
    shape = (*x.shape[:-2], x.shape[-2] // block.ranks, x.shape[-1])
    out = t.new(shape, x.dtype) if block.overlapped else _scattered_rows(x, shape)
    out.node = node
    return out


@rule(GatherChannels)
def gather_channels(t: Tape, block: GatherChannels, x: Value, _: Around) -> Value:
    """Shard(-1) to Replicate: parts in a row, put side by side."""
    node = record(t, _channels_backward, (x,), (), x.shape)
    _row = t.new((block.ranks * x.shape[0], *x.shape[1:]), x.dtype)
    out = t.new((*x.shape[:-1], x.shape[-1] * block.ranks), x.dtype)
    out.node = node
    return out


@rule(SplitChannels)
def split_channels(t: Tape, block: SplitChannels, x: Value, _: Around) -> Value:
    """Replicate to Shard(-1)."""
    node = record(t, _split_backward, (x,), (), x.shape)
    out = t.new((*x.shape[:-1], x.shape[-1] // block.ranks), x.dtype)
    out.node = node
    return out


def _split_backward(node: Node, g: Value) -> Gradients:
    """Shard(-1) to Replicate: as in gather_channels."""
    _row = g.tape.new((node.meta[-1] // g.shape[-1] * g.shape[0], *g.shape[1:]), g.dtype)
    return (g.tape.new(node.meta, g.dtype),)


def _channels_backward(node: Node, g: Value) -> Gradients:
    """Replicate to Shard(-1): a copy of this rank's part (placement_types.py, Shard._replicate_to_shard)."""
    return (g.tape.new(node.meta, g.dtype),)


def _gather_backward(node: Node, g: Value) -> Gradients:
    return (_scattered_rows(g, node.meta),)


def _scatter_backward(node: Node, g: Value) -> Gradients:
    return (_gathered_rows(g, node.meta),)


def _overlapped_backward(node: Node, g: Value) -> Gradients:
    return (g.tape.new(node.meta, g.dtype),)


def _gathered_rows(x: Value, shape: Shape) -> Value:
    """all_gather_single along dimension 1 (_functional_collectives.py): parts in a row, put together where there is a batch."""
    ranks = x.tape.new(shape, x.dtype)
    return x.tape.new(shape, x.dtype) if shape[0] > 1 else ranks


def _scattered_rows(x: Value, shape: Shape) -> Value:
    """reduce_scatter_single along dimension 1: parts are put in a row first."""
    _row = x.tape.new(x.shape, x.dtype)
    return x.tape.new(shape, x.dtype)


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


def ring(t: Tape, q: Value, k: Value, v: Value) -> Value:
    """Attention of [batch, heads, tokens, channels] over context-parallel ranks (torch/distributed/tensor/experimental).

    _context_parallel/_attention.py, _templated_ring_attention: keys and values of all ranks are gathered, one part after
    the other is attended to, and outputs are merged in fp32. Saved is what attention saves, of this rank's part.
    """
    over = t.setting.ways.context if t.setting.ways else 1
    q, k, v = (f.lower(x) for x in (q, k, v))
    node = record(t, _ring_backward, (q, k, v), (q, k, v), over)
    t.multiplied(2 * over * q.elements // q.shape[-1] * k.shape[-2] * (q.shape[-1] + v.shape[-1]), kernel=True)
    keys = _gathered(t, k, v, over)
    merged = part = None
    for _ in range(min(over, ROUNDS)):
        part = t.new((*q.shape[:-1], v.shape[-1]), q.dtype)
        wide = t.new(part.shape, "fp32")
        merged = wide if merged is None else _merged(t, merged)
        del wide
    assert part is not None  # noqa: S101 - there is one round at least
    b, h, s, d = part.shape
    out = output(t, "attention", part.shape, q.dtype, dense_like(part.shape, (s * h * d, d, h * d, 1)))
    del keys, merged, part
    out.node = node
    save(t, node, out)
    save(t, node, output(t, "attention", q.shape[:3], "fp32"))
    return out


ROUNDS = 3  # after which the same tensors come and go


def _gathered(t: Tape, k: Value, v: Value, over: int) -> Value:
    """_AllGatherRotater: keys and values in a row, of every rank."""
    own = t.new((k.elements + v.elements,), k.dtype)
    every = t.new((over * own.elements,), k.dtype)
    del own
    return every


def _merged(t: Tape, out: Value) -> Value:
    """out - sigmoid(…) * (out - block)."""
    difference = t.new(out.shape, out.dtype)
    product = t.new(out.shape, out.dtype)
    del difference
    made = t.new(out.shape, out.dtype)
    del product
    return made


def _ring_backward(node: Node, _: Value) -> Gradients:
    """_templated_ring_attention_backward: sums in fp32, those of keys and values on their way round."""
    q, k, v, *_saved = node.load()
    t, over = q.tape, node.meta
    t.multiplied(5 * over * q.elements // q.shape[-1] * k.shape[-2] * (q.shape[-1] + v.shape[-1]), kernel=True)
    sums = t.new(q.shape, "fp32")
    keys = _gathered(t, k, v, over)
    passing = [t.new(x.shape, "fp32") for x in (k, v)]
    parts: list[Value] = []
    for _round in range(min(over, ROUNDS)):
        made = [t.new(x.shape, x.dtype) for x in (q, k, v)]
        parts = made
        sent = t.new((k.elements + v.elements,), "fp32")
        passing = [sent, t.new(sent.shape, "fp32")]
        del made, sent
    dq = t.new(q.shape, q.dtype)
    del sums, keys
    both = [t.new(x.shape, x.dtype) for x in (k, v)]
    del parts, passing
    return dq, both[0], both[1]
