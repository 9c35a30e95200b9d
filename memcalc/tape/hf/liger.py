"""Liger's kernels in the place of transformers' modules (liger_kernel 0.8.5): what each saves, and writes over.

A fused kernel runs where the run's setting names its part, in a model type that Liger patches
(presets/implementations/hf-liger.yaml).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record, save

if TYPE_CHECKING:
    from memcalc.blocks.basic import Norm
    from memcalc.blocks.mlp import Experts
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

QUERIES_AND_KEYS = ("q_norm", "k_norm", "query_layernorm", "key_layernorm")
MULTIPROCESSORS = 132  # of an H100 or H200: the gradient of a norm's weight is summed up in as many rows


def takes(t: Tape, norm: Norm) -> bool:
    """Whether the kernel takes the place of this norm: those of queries and keys are left to some models."""
    return ("qk-norm" if norm.name in QUERIES_AND_KEYS else "norm") in t.setting.fused


def rms_norm(t: Tape, x: Value, weight: Value | None) -> Value:
    """LigerRMSNormFunction: saves its input and the reciprocal root of each row in fp32 (ops/rms_norm.py)."""
    x = f.contiguous(x)
    out = t.new(x.shape, x.dtype)
    roots = t.new(x.shape[:-1], "fp32")
    out.node = node = record(t, _rms_norm_backward, (x, weight), (x, weight), weight and weight.dtype)
    save(t, node, roots)
    return out


def _rms_norm_backward(node: Node, g: Value) -> Gradients:
    """rms_norm_backward: one partial sum of the weight's gradient for each multiprocessor."""
    _x, weight, _roots = node.load()
    g = f.contiguous(g)
    tape, apart = g.tape, "norm-apart" in g.tape.setting.fused
    partial = tape.new((MULTIPROCESSORS, g.shape[-1]), "fp32") if node.edges[1] else None
    towards_input = tape.new(g.shape, g.dtype) if apart else g
    if partial is None:
        return towards_input, None
    total = tape.new((g.shape[-1],), "fp32")
    towards_weight = f.to(total, weight.dtype)
    del partial, total
    return towards_input, towards_weight


def rope(q: Value, k: Value, tables: tuple[Value, Value]) -> tuple[Value, Value]:
    """LigerRopeFunction: queries and keys [batch, heads, seq, dim] are rotated in place; saves the tables (ops/rope.py)."""
    node = record(q.tape, _rope_backward, (q, k), tables)
    if node:
        node.width = 2
    first, second = (_laid_out(x) for x in (q, k))
    first.node = second.node = node
    second.slot = 1
    return first, second


def _laid_out(x: Value) -> Value:
    """x.transpose(1, 2).contiguous().transpose(1, 2): a copy only where tokens do not lie one after the other."""
    flat = f.contiguous(f.transpose(x.detach(), 1, 2))
    return f.transpose(flat, 1, 2)


def _rope_backward(node: Node, *grads: Value | None) -> Gradients:
    """The same rotation backwards, in place; a gradient that is not there becomes zeros."""
    tables = node.load()
    missing = [g is None for g in grads]
    assert not all(missing)  # noqa: S101 - or this would not run
    del tables
    return tuple(None if g is None else _laid_out(g) for g in grads)


def gated(gate: Value, up: Value) -> Value:
    """LigerSiLUMulFunction, LigerGELUMulFunction: act(gate) * up; both are saved, and become their own gradients.

    (ops/swiglu.py, ops/geglu.py.) Halves of one projection are copied first.
    """
    gate, up = f.contiguous(gate), f.contiguous(up)
    node = record(gate.tape, _gated_backward, (gate, up), (gate, up))
    out = gate.tape.new(gate.shape, gate.dtype)
    out.node = node
    return out


def _gated_backward(node: Node, g: Value) -> Gradients:
    _flat = f.contiguous(g)
    return tuple(node.load())


def experts(t: Tape, block: Experts, x: Value, weights: Value, chosen: Value) -> Value:
    """LigerFusedMoEFunction over tokens [tokens, hidden]: saves them, what precedes the activation, and indices.

    (ops/fused_moe.py.) The activated rows and those of the second product go when the forward pass is over; the backward
    pass makes the first again.
    """
    up, down = (t.weight(param.name, param.shape) for param in block.params[:2])
    tokens, rows, width = x.shape[0], chosen.elements, down.shape[-1]
    places = [t.new((rows,), "int32") for _ in range(4)]  # the chosen experts and three orders of the rows
    before = t.new((rows, 2 * width), x.dtype)
    after, second = t.new((rows, width), x.dtype), t.new((rows, x.shape[1]), x.dtype)
    out = t.new((tokens, x.shape[1]), x.dtype)
    out.node = record(t, _experts_backward, (x, up, down, weights), (x, up, down), (rows, width))
    for kept in (before, weights, *places[1:]):
        save(t, out.node, kept)
    del after, second
    return out


def _experts_backward(node: Node, g: Value) -> Gradients:
    """Gradients of the second product's weight, of every copy of a token, of the tokens, and of the first's weight."""
    x, up, down, *_ = node.load()
    (rows, width), tape = node.meta, g.tape
    before, after = tape.new((rows, 2 * width), g.dtype), tape.new((rows, width), g.dtype)
    scores = tape.new((rows,), g.dtype)
    towards_down = tape.new(down.shape, down.dtype)
    copies = tape.new((rows, x.shape[1]), g.dtype)
    towards_x = tape.new(x.shape, g.dtype)
    towards_up = tape.new(up.shape, up.dtype)
    del before, after, copies
    return towards_x, towards_up if node.edges[1] else None, towards_down if node.edges[2] else None, scores
