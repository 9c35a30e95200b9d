"""SEW-D: DeBERTa's attention with a softmax and a dropout that are autograd functions of their own (modeling_sew_d.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.disentangled import DisentangledAttention
from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record, save
from memcalc.tape.functions.arithmetic import result
from memcalc.tape.hf.attention import project
from memcalc.tape.hf.disentangled import bias_v2, by_head
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(DisentangledAttention, "sew-d")
def attention(t: Tape, block: DisentangledAttention, x: Value, around: Around) -> Value:
    """SEWDAttention.forward, whose projection comes when all names of the attention are gone."""
    return project(t, block, context(t, block, x, around), around)


def context(t: Tape, block: DisentangledAttention, x: Value, around: Around) -> Value:
    """DisentangledSelfAttention.forward: heads folded into the batch; scores keep their name beside the weights."""
    q, k, v = (by_head(run(t, part, x, around), block.heads) for part in (block.q, block.k, block.v))
    scores = f.bmm(q, f.scale(f.swap(k)))
    if around.table is not None:
        rel = dropout(around.table, block.position_dropout)
        bias = bias_v2(t, block, q, k, rel, around)
        if bias is not None:
            scores = f.add(scores, bias)
    batch, seq = x.shape[:2]
    scores = f.view(scores, batch, block.heads, seq, seq)
    weights = dropout(softmax(scores), block.dropout)
    out = f.bmm(f.lower(f.view(weights, -1, seq, seq)), v)
    out = f.contiguous(f.permute(f.view(out, batch, block.heads, seq, -1), 0, 2, 1, 3))
    del scores
    return out


def softmax(x: Value) -> Value:
    """XSoftmax: of a masked copy, its masked output saved; the gradient is one tensor, cast where the output is wider."""
    node = record(x.tape, _softmax_backward, (x,), (), x.dtype)
    with x.tape.no_grad():
        filled = f.masked_fill(x, x.tape.new((x.shape[0], 1, 1, x.shape[-1]), "bool"))
        out = f.softmax(filled)
    del filled
    out.node = node
    save(x.tape, node, out)
    return out


def _softmax_backward(node: Node, g: Value) -> Gradients:
    (out,) = node.load()
    return (f.to(g.tape.new(out.shape, out.dtype), node.meta),)


def dropout(x: Value, p: float) -> Value:
    """XDropout: filled with zeros by a mask of booleans that is saved, then scaled."""
    if p <= 0 or x.tape.setting.evaluating:
        return x
    with x.tape.no_grad():
        kept = x.tape.new(x.shape, x.dtype)
        turned = x.tape.new(x.shape, x.dtype)
        mask = x.tape.new(x.shape, "bool")
    del kept, turned
    node = record(x.tape, _dropout_backward, (x,), (mask,))
    with x.tape.no_grad():
        filled = f.masked_fill(x, mask)
        out = result(filled, None)
    del filled
    out.node = node
    return out


def _dropout_backward(node: Node, g: Value) -> Gradients:
    _mask = node.load()
    filled = result(g, None)
    return (result(filled, None),)
