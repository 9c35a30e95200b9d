"""What torch.compile makes of pointwise operations: one node that saves its inputs, and nothing in between.

AOTAutograd's partitioner (torch/_functorch/partitioners.py, min_cut_rematerialization_partition) keeps what a matrix
product or an attention kernel of the backward pass reads, and recomputes the pointwise operations from that: a norm
keeps its input and one fp32 number for each row, a gated activation its two inputs, a rotation its tables. Checked
against the graphs that torch 2.13 cuts for a layer of torchtune's; Inductor's fusion makes no tensor in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape.autograd import Gradients, Node, record, save
from memcalc.tape.values import Value, dense_like

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape


def rms_norm(t: Tape, x: Value, weight: Value | None) -> Value:
    """A norm in one kernel, its cast up and back within."""
    out = t.new(x.shape, x.dtype)
    out.node = node = record(t, _norm_backward, (x, weight), (x, weight))
    save(t, node, t.new(x.shape[:-1], "fp32") if node else None)
    return out


def _norm_backward(node: Node, g: Value) -> Gradients:
    x, weight, _rows = node.load()
    towards_input = g.tape.new(x.shape, x.dtype) if node.edges[0] else None
    return towards_input, g.tape.new(weight.shape, weight.dtype) if node.edges[1] else None


def gated(gate: Value, up: Value) -> Value:
    """act(gate) * up in one kernel."""
    node = record(gate.tape, _gated_backward, (gate, up), (gate, up))
    out = gate.tape.new(gate.shape, gate.dtype)
    out.node = node
    return out


def _gated_backward(node: Node, g: Value) -> Gradients:
    gate, up = node.load()
    return tuple(g.tape.new(x.shape, x.dtype) if edge else None for x, edge in zip((gate, up), node.edges, strict=True))


def rope(q: Value, k: Value, tables: tuple[Value, Value]) -> tuple[Value, Value]:
    """Queries and keys [batch, heads, seq, dim], each rotated in one kernel."""
    return _turned(q, tables), _turned(k, tables)


def _turned(x: Value, tables: tuple[Value, Value]) -> Value:
    out = x.tape.new(x.shape, x.dtype, x.strides and dense_like(x.shape, x.strides))
    out.node = record(x.tape, _turned_backward, (x,), tables)
    return out


def _turned_backward(_: Node, g: Value) -> Gradients:
    return (g.tape.new(g.shape, g.dtype, g.strides and dense_like(g.shape, g.strides)),)


def cross_entropy(t: Tape, logits: Value) -> Value:
    """Cross entropy of rows: the logits are saved in their own dtype, with the greatest and the sum of each row."""
    node = record(t, _cross_entropy_backward, (logits,), (logits,))
    rows = [t.new((logits.shape[0], 1), "fp32") for _ in range(2)]
    loss = t.new((), "fp32")
    for row in rows:
        save(t, node, row)
    loss.node = node
    return loss


def _cross_entropy_backward(node: Node, g: Value) -> Gradients:
    logits = node.load()[0]
    return (g.tape.new(logits.shape, logits.dtype),)
