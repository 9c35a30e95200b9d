"""X-MOD's adapters of languages (modeling_xmod.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.xmod import Languages
from memcalc.tape import functions as f
from memcalc.tape.autograd import record
from memcalc.tape.functions.inplace import put_
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.tape.autograd import Gradients, Node
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Languages)
def languages(t: Tape, block: Languages, x: Value, around: Around) -> Value:
    """XmodOutput.lang_adapter: every language's adapter runs over its rows, of which all but one has none."""
    read = run(t, block.norm, x, around)
    residual = x if block.raw else read
    out = t.new(read.shape, read.dtype)
    picked = adapted = None
    for number, adapter in enumerate(block.adapters):
        mask = t.new(read.shape[:1], "bool")
        if number == block.chosen:
            picked = f.gather(read, mask, read.shape)
            adapted = run(t, adapter, picked, around)
            out = put_(out, mask, adapted)
        else:
            picked = adapted = None
            out = passed_over(t, adapter, read, out, mask)
    del picked, adapted
    return f.add_(run(t, block.dropout, out, around), residual)


def passed_over(t: Tape, adapter: Block, read: Value, out: Value, mask: Value) -> Value:
    """out[mask] = adapter(read[mask]) of no rows: the parameters have gradients all the same, and so has what is read."""
    weights = []
    for dense in adapter.parts()[::2]:
        with inside(t, adapter), inside(t, dense):
            weights += [t.weight(param.name, param.shape) for param in dense.own()]
    node = record(t, _passed_over_backward, (out, read, *weights), (mask,))
    done = out.detach()
    done.node, done.slot = (node, 0) if node else (out.node, out.slot)
    return done


def _passed_over_backward(node: Node, g: Value) -> Gradients:
    _mask = node.load()
    first = g.tape.new(g.shape, g.dtype) if node.edges[0] else None
    whole, *rest = [g.tape.new(edge.shape, edge.dtype) if edge else None for edge in node.edges[1:]]
    return first, whole, *rest
