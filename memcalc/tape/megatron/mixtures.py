"""MoELayer: router, token dispatcher, grouped experts (megatron/core/transformer/moe).

Which expert a token goes to depends on the data; here every rank gets as many as every other.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from memcalc.blocks.megatron import GroupedExperts, MegatronMoe
from memcalc.blocks.mlp import Router
from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record
from memcalc.tape.checkpoint import checkpointed
from memcalc.tape.hf.activations import activate
from memcalc.tape.megatron import engine
from memcalc.tape.megatron.engine import Product
from memcalc.tape.megatron.modules import recomputes, ways_of
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Shape, Value


class Dispatch(NamedTuple):
    """Rows that leave this rank, and rows that its experts get, of `experts` in all."""

    sent: int
    received: int
    experts: int


@rule(MegatronMoe)
def mixture(t: Tape, block: MegatronMoe, x: Value, around: Around) -> Value:
    """MoELayer.forward; recomputed whole where `moe` is among the modules."""
    if recomputes(t, "moe"):
        return checkpointed(t, lambda y: _mixture(t, block, y, around), x, reentrant=True)
    return _mixture(t, block, x, around)


def _mixture(t: Tape, block: MegatronMoe, x: Value, around: Around) -> Value:
    shared = beside(t, block, x, around) if block.shared else None
    rows = f.view(x, -1, x.shape[-1])
    assert isinstance(block.router, Router)  # noqa: S101 - Megatron has no other
    probabilities, routing = routed(t, block.router, rows)
    plan = dispatch(t, block.router, rows.shape[0])
    hidden_states, probs, mapping = permuted(t, rows, probabilities, routing, plan)
    del probabilities
    # custom_forward holds on to what it has sent and got until it returns
    dispatched_input, probs = exchanged(t, hidden_states, plan.received), exchanged(t, probs, plan.received)
    output = computed(t, block.experts, dispatched_input, probs)
    output = exchanged(t, output, plan.sent)
    output = unpermuted(t, output, mapping, routing, x.shape)
    del hidden_states, dispatched_input, probs
    return output if shared is None else f.add(output, shared)


def computed(t: Tape, block: Block | None, there: Value, weights: Value) -> Value:
    """routed_experts_compute: rows of an expert side by side, the experts, and the rows in their old order."""
    assert isinstance(block, GroupedExperts)  # noqa: S101 - so converted
    if block.experts == 1:
        return experts(t, block, there, weights)
    there, weights = sorted_rows(t, there), sorted_rows(t, weights)
    expert_output = experts(t, block, there, weights)
    return sorted_rows(t, expert_output)


def beside(t: Tape, block: MegatronMoe, x: Value, around: Around) -> Value:
    """The shared experts' part, under its gate."""
    if recomputes(t, "shared_experts"):
        return checkpointed(t, lambda y: run(t, block.shared, y, around), x, reentrant=True)
    out = run(t, block.shared, x, around)
    return f.mul(out, f.sigmoid(run(t, block.shared_gate, x, around))) if block.shared_gate else out


def dispatch(t: Tape, router: Router, tokens: int) -> Dispatch:
    """Rows of a balanced dispatch; with a capacity every expert gets as many as it has room for.

    Experts cut by the expert-tensor degree see the rows of all ranks that share them (AllGather behind the all-to-all).
    """
    ways = ways_of(t)
    rows = tokens * router.top_k
    if ways.capacity and ways.pads:
        rows = ceil(rows / router.experts * ways.capacity) * router.experts  # get_capacity, moe_utils.py
    return Dispatch(rows, rows * ways.expert_tensor, router.experts)


def routed(t: Tape, router: Router, rows: Value) -> tuple[Value, Value]:
    """TopKRouter.forward: (probabilities [tokens, experts], which of them [tokens, experts] as booleans)."""
    shape = (rows.shape[0], router.experts)
    wide = ways_of(t).router or rows.dtype
    node = record(t, _gating_backward, (rows,), (rows,), router.inputs)
    logits = t.new(shape, wide)
    logits.node = node
    aux = f.softmax(logits, "fp32")
    scores = (
        f.to(f.softmax(logits, "fp32"), logits.dtype) if router.scores != "sigmoid" else f.sigmoid(f.to(logits, "fp32"))
    )
    del logits
    values, chosen = f.topk(scores, router.top_k)
    values = f.scale(values)
    where = t.new(shape, "int32")
    routing = t.new(shape, "bool")
    del where
    probabilities = t.new(shape, values.dtype)
    probabilities.node = record(t, _scattered_backward, (values, aux), (chosen,), (values.shape, shape))
    return probabilities, routing


def _gating_backward(node: Node, g: Value) -> Gradients:
    (rows,) = node.load()
    return (g.tape.new(rows.shape, rows.dtype),)


def _scattered_backward(node: Node, g: Value) -> Gradients:
    """The chosen probabilities' gradients; that of the load balance goes back beside them."""
    first, second = node.meta
    return g.tape.new(first, g.dtype), g.tape.new(second, "fp32")


def permuted(t: Tape, rows: Value, probabilities: Value, routing: Value, plan: Dispatch) -> tuple[Value, Value, Value]:
    """moe_utils.permute: a row for each choice, its weight, and the map back (fused: TE's, of 32-bit integers)."""
    if ways_of(t).fuses_permutation:
        mapping = t.new((rows.shape[0], 2 * plan.experts + 1), "int32")
    else:
        mapping = t.new((plan.sent,), "int64")
    node = record(t, _permuted_backward, (rows, probabilities), (mapping, routing), (rows.shape, probabilities.shape))
    if node:
        node.width = 2
    out, weights = t.new((plan.sent, rows.shape[-1]), rows.dtype), t.new((plan.sent,), probabilities.dtype)
    out.node = weights.node = node
    weights.slot = 1
    return out, weights, mapping


def _permuted_backward(node: Node, g: Value, weights: Value | None) -> Gradients:
    first, second = node.meta
    return g.tape.new(first, g.dtype), g.tape.new(second, weights.dtype) if weights is not None else None


def exchanged(t: Tape, x: Value, rows: int) -> Value:
    """all_to_all over the expert-parallel group, and the gathering over the expert-tensor group behind it."""
    ways = ways_of(t)
    if ways.expert == 1 and ways.expert_tensor == 1:
        return x
    out = t.new((rows, *x.shape[1:]), x.dtype)
    out.node = record(t, _exchanged_backward, (x,), (), x.shape)
    return out


def _exchanged_backward(node: Node, g: Value) -> Gradients:
    return (g.tape.new(node.meta, g.dtype),)


def sorted_rows(t: Tape, x: Value) -> Value:
    """sort_chunks_by_idxs: rows of the same expert side by side."""
    out = t.new(x.shape, x.dtype)
    out.node = record(t, _exchanged_backward, (x,), (), x.shape)
    return out


def experts(t: Tape, block: GroupedExperts, x: Value, weights: Value) -> Value:
    """TEGroupedMLP.forward: the routers' weights are applied with the activation."""
    again = recomputes(t, "moe_act")
    first = engine.linear(t, x, grouped(t, block, x, block.inputs, block.width * (2 if block.gated else 1)))
    if ways_of(t).fuses_activation:
        inner = engine.fused_activation(t, first, gated=block.gated, weights=weights)
    elif block.gated:
        gate, up = f.chunk(first, 2)
        inner = f.mul(f.mul(activate(block.activation, gate), up), f.unsqueeze(weights, -1))
        del gate, up
    else:
        inner = f.mul(activate(block.activation, first), f.unsqueeze(weights, -1))
    del first
    return engine.linear(t, inner, grouped(t, block, inner, block.width, block.inputs, again=again))


def grouped(t: Tape, block: GroupedExperts, x: Value, inputs: int, outputs: int, *, again: bool = False) -> Product:
    """The products of all experts of this rank."""
    spare = 0 if ways_of(t).accumulates else block.experts * inputs * outputs
    return Product(inputs, outputs, bias=block.bias, spare=spare, again=again, flops=2 * x.shape[0] * inputs * outputs)


def unpermuted(t: Tape, x: Value, mapping: Value, routing: Value, shape: Shape) -> Value:
    """moe_utils.unpermute: a token's rows are summed."""
    out = t.new(shape, x.dtype)
    out.node = record(t, _exchanged_backward, (x,), (mapping, routing), x.shape)
    return out
