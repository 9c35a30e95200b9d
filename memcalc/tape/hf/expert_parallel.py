"""Expert parallelism as transformers has it: tokens sent to the ranks of their experts, and back.

Source: transformers 5.23, distributed/expert_parallel.py (AllToAllEP, which AutoEP takes in training). Ranks are taken to
get as many tokens as they send.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.autograd import record
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.stacked_experts import expert_bias, expert_linear, gate
from memcalc.tape.units import called

if TYPE_CHECKING:
    from memcalc.blocks.mlp import Experts
    from memcalc.tape.autograd import Gradients, Node
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def exchanged(t: Tape, block: Experts, x: Value, weights: Value, chosen: Value) -> Value:
    """The experts module, which is a unit of FSDP's by itself: efsdp ranks share it."""
    visit = t.sharder.experts() if t.sharder is not None and hasattr(t.sharder, "experts") else None
    if t.sharder is None or visit is None:
        return _exchanged(t, block, x, weights, chosen)
    weights = t.sharder.taken(visit.unit, weights)
    return called(t, visit, lambda rows: _exchanged(t, block, rows, weights, chosen), x)


def _exchanged(t: Tape, block: Experts, x: Value, weights: Value, chosen: Value) -> Value:
    """AllToAllEP.__call__, whose names hold what was received and made until it returns."""
    received, order, expert_ids, ones, own, each = _dispatched(t, x, weights, chosen)
    out = _local(t, block, received, expert_ids, ones)
    combined = _combined(t, out, own, order, each)
    del received, expert_ids, ones, out, own
    return f.to(combined, x.dtype)


def _cut(t: Tape, x: Value, ranks: int) -> Value:
    """Rows of a batch that tensor-parallel ranks share: Replicate to Shard(0) is a copy; going back they are gathered."""
    out = t.new((-(-x.shape[0] // ranks), *x.shape[1:]), x.dtype)
    out.node = record(t, _gathered, (x,), ())
    return out


def _gathered(node: Node, g: Value) -> Gradients:
    return (g.tape.new(node.shape(0), g.dtype),)


def _whole(t: Tape, x: Value, ranks: int) -> Value:
    """full_tensor: Shard(0) to Replicate; going back a rank has a copy of its rows."""
    out = t.new((x.shape[0] * ranks, *x.shape[1:]), x.dtype)
    out.node = record(t, _gathered, (x,), ())
    return out


def _dispatched(
    t: Tape, x: Value, weights: Value, chosen: Value
) -> tuple[Value, Value, Value, Value, Value, tuple[int, int]]:
    """_dispatch_tokens: the rows that this rank's experts run on, how they were sorted, their experts and weights.

    And of this rank's own rows the weights, how many they are, and of how many experts each.
    """
    ranks = t.setting.ways.tensor if t.setting.ways else 1
    if ranks > 1:
        x, chosen, weights = (_cut(t, value, ranks) for value in (x, chosen, weights))
    copies = chosen.shape[0] * chosen.shape[1]
    order = t.new((copies,), "int64")
    sent = f.index(x, f.scale(order), (copies, x.shape[-1]))
    received = _all_to_all(t, sent)
    expert_ids = t.new((copies, 1), "int64")
    ones = t.new((copies, 1), received.dtype)
    del sent
    return received, order, expert_ids, ones, weights, (chosen.shape[0], chosen.shape[1])


def _all_to_all(t: Tape, x: Value) -> Value:
    """all_to_all_single_autograd: its gradient takes the way back."""
    out = t.new(x.shape, x.dtype)
    out.node = record(t, _sent_back, (x,), ())
    return out


def _sent_back(_: Node, g: Value) -> Gradients:
    return (g.tape.new(g.shape, g.dtype),)


def _local(t: Tape, block: Experts, x: Value, expert_ids: Value, ones: Value) -> Value:
    """grouped_mm_experts_forward with a single expert a row, and rows of other ranks' experts masked."""
    copies, hidden = x.shape
    order, permutation = t.new((copies,), "int64"), t.new((copies,), "int64")
    selected = f.index(x, f.scale(permutation), (copies, hidden))
    weights = f.index(ones, permutation, (copies, 1))
    offsets = t.new((block.experts,), "int32")
    mask = t.new((copies, 1), "bool")
    selected = _masked_(t, selected, mask)
    bias = expert_bias(t, block, 0, copies, order)
    merged: list[Value] = []
    out = _masked(t, expert_linear(t, block, 0, selected, offsets, bias, merged), mask)
    out = gate(block, out) if block.gated else activate(block.activation, out)
    bias = expert_bias(t, block, 1, copies, order)
    out = _masked(t, expert_linear(t, block, 1, out, offsets, bias, merged), mask)
    del bias
    weighted = f.mul(out, weights)
    inverse = t.new((copies,), "int64")
    weighted = f.index(weighted, inverse, weighted.shape)
    del expert_ids
    return f.to(f.total(f.view(weighted, copies, 1, hidden), 1), x.dtype)


def _masked(t: Tape, x: Value, mask: Value) -> Value:
    """masked_fill: a new tensor."""
    out = t.new(x.shape, x.dtype)
    out.node = record(t, _masked_backward, (x,), (mask,))
    return out


def _masked_(t: Tape, x: Value, mask: Value) -> Value:
    """masked_fill_: in place."""
    made = x.detach()
    made.node = record(t, _masked_backward, (x,), (mask,))
    return made


def _masked_backward(node: Node, g: Value) -> Gradients:
    _mask = node.load()
    return (g.tape.new(g.shape, g.dtype),)


def _combined(t: Tape, out: Value, weights: Value, order: Value, chosen: tuple[int, int]) -> Value:
    """_combine_tokens: outputs sent back, put into the order of the tokens, weighted and summed."""
    tokens, top_k = chosen
    back = _all_to_all(t, out)
    made = t.new(back.shape, back.dtype)
    made.node = record(t, _put_backward, (back,), (order,))
    rows = f.view(made, tokens, top_k, made.shape[-1])
    ranks = t.setting.ways.tensor if t.setting.ways else 1
    out = f.total(f.mul(rows, f.unsqueeze(f.view(weights, tokens, top_k), -1)), 1)
    return _whole(t, out, ranks) if ranks > 1 else out


def _put_backward(node: Node, g: Value) -> Gradients:
    """index_put_: the gradient's rows in the order they were put."""
    _order = node.load()
    return (g.tape.new(g.shape, g.dtype),)
