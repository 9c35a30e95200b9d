"""torchtitan's mixtures of experts: token-choice routing, three grouped products, outputs put back into the order of tokens.

Source: torchtitan 0.2.2, models/moe/moe.py (MoE, TokenChoiceTopKRouter, TokenReorderer, GroupedExperts), models/moe/utils.py
(_permute, _unpermute) and distributed/expert_parallel.py (ExpertParallel). Names of a function hold their tensors until it
returns. Routed tokens are taken to be spread evenly over the experts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.mlp import Experts, Router
from memcalc.tape import functions as f
from memcalc.tape.autograd import record
from memcalc.tape.hf import kernels
from memcalc.tape.keeping import output
from memcalc.tape.rules import Around, inside, run
from memcalc.tape.units import called

if TYPE_CHECKING:
    from memcalc.blocks.mlp import Moe
    from memcalc.tape.autograd import Gradients, Node
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

ALIGNED = 8  # rows of a group: 16 bytes of bf16 (TOKEN_GROUP_ALIGN_SIZE_M)


def mixture(t: Tape, block: Moe, x: Value, around: Around) -> Value:
    """MoE.forward; scores weigh what the experts yield, or, in Llama 4, what they get (score_before_experts)."""
    router, experts = block.router, block.experts
    assert isinstance(router, Router)  # noqa: S101 - stacked experts come with one
    assert isinstance(experts, Experts)  # noqa: S101 - as three_products has made it
    rows = f.view(x, -1, x.shape[-1])
    tokens, hidden = rows.shape
    scores, chosen, counted = choice(t, router, rows)
    sorted_scores, order, counted = reordered(t, router, scores, chosen)
    routed = f.index(rows, f.scale(order), (order.shape[0], hidden))
    before = block.formula == "llama4"
    if before:
        routed = f.to(f.mul(f.to(routed, "fp32"), f.reshape(sorted_scores, -1, 1)), x.dtype)
    made = through(t, experts, routed)
    out = run(t, block.shared, rows, around) if block.shared else None
    unsorted = put(t, made, order, chosen.elements)
    unsorted = f.view(unsorted, tokens, router.top_k, hidden)
    weighed = f.total(unsorted, 1) if before else weighted(scores, unsorted, x.dtype)
    total = f.view(weighed if out is None else f.add(out, weighed), *x.shape)
    del chosen, counted, sorted_scores, routed, made, unsorted
    return total


def weighted(scores: Value, rows: Value, dtype: str) -> Value:
    """Rows [tokens, top_k, hidden] weighed by their scores and summed, in fp32."""
    wide = f.to(rows, "fp32")
    return f.squeeze(f.to(f.bmm(f.reshape(scores, scores.shape[0], 1, scores.shape[1]), wide), dtype), 1)


def choice(t: Tape, block: Router, rows: Value) -> tuple[Value, Value, Value]:
    """TokenChoiceTopKRouter.forward: (scores of the chosen, the chosen, tokens of each expert)."""
    with inside(t, block):
        scores = f.linear(rows, t.weight("weight", (block.experts, block.inputs)))
    wide = f.to(scores, "fp32")
    scores = f.sigmoid(wide) if block.scores == "sigmoid" else f.softmax(wide)
    del wide
    for_choice = f.shift(scores)  # by the bias that balances the load
    values, chosen = f.topk(for_choice, block.top_k)
    top = f.gather(scores, chosen, chosen.shape)
    if block.normalized:
        below = f.shift(f.total(top, -1, keep=True))
        top = f.div(top, below)
    top = f.scale(top)
    counted = t.new((block.experts,), "int64")
    del for_choice, values
    return top, chosen, counted


def reordered(t: Tape, block: Router, scores: Value, chosen: Value) -> tuple[Value, Value, Value]:
    """TokenReorderer.forward: (sorted scores, the order, tokens of each expert).

    Tensor-parallel ranks that share no expert take a part of the tokens each (ReordererSequenceParallel).
    """
    ways = t.setting.ways
    if ways and ways.expert > 1 and ways.expert_tensor < ways.tensor:
        rows = chosen.shape[0] // ways.tensor
        scores, chosen = f.narrow(scores, 0, rows), f.narrow(chosen, 0, rows)
    counted = t.new((block.experts,), "int64")
    copies = chosen.elements
    values = t.new((copies,), "int64")  # what is sorted
    order = t.new((copies,), "int64")
    del values
    return f.index(f.reshape(scores, -1), order, (copies,)), order, counted


def through(t: Tape, block: Experts, routed: Value) -> Value:
    """GroupedExperts, a unit of FSDP's by itself under expert parallelism, with its tokens sent there and back."""
    with inside(t, block):
        visit = t.sharder.experts() if t.sharder is not None and hasattr(t.sharder, "experts") else None
        spread = bool(t.setting.ways and t.setting.ways.expert > 1)
        if visit is None:
            return exchanged(t, block, routed) if spread else padded(t, block, routed)
        return called(t, visit, lambda rows: exchanged(t, block, rows), routed)


def exchanged(t: Tape, block: Experts, routed: Value) -> Value:
    """ExpertParallel's _token_dispatch, the experts, and _token_combine."""
    counts = t.new((block.experts,), "int64")
    rows = all_to_all(t, routed)
    out = padded(t, block, rows)
    del rows, counts
    return all_to_all(t, out)


def all_to_all(t: Tape, x: Value) -> Value:
    """all_to_all_single_autograd, which selective checkpointing keeps: its gradient takes the way back."""
    out = output(t, "exchange", x.shape, x.dtype)
    out.node = record(t, _sent_back, (x,), ())
    return out


def _sent_back(_: Node, g: Value) -> Gradients:
    return (g.tape.new(g.shape, g.dtype),)


def padded(t: Tape, block: Experts, rows: Value) -> Value:
    """_permute, the experts, and _unpermute: groups of rows padded, with one row of zeros that padding stands for."""
    copies, hidden = rows.shape
    longest = -(-(copies + block.experts * ALIGNED) // ALIGNED) * ALIGNED
    order = t.new((longest,), "int32")
    stacked = f.cat((rows, t.new((1, hidden), rows.dtype)), 0)
    permuted = f.index(stacked, order, (longest, hidden))
    del stacked
    out = products(t, block, permuted)
    del permuted
    return f.narrow(put(t, out, order, copies + 1), 0, copies)


def products(t: Tape, block: Experts, x: Value) -> Value:
    """_run_experts_grouped_mm."""
    first, third, second = (f.swap(t.weight(param.name, param.shape)) for param in block.params)
    offsets = t.new((block.experts,), "int32")
    gate = f.grouped_mm(x, first, offsets)
    if "compiled" in t.setting.fused:
        h = kernels.gated(gate, f.grouped_mm(x, third, offsets))
        del gate
    else:
        h = f.silu(gate)
        del gate
        h = f.mul(h, f.grouped_mm(x, third, offsets))
    return f.grouped_mm(h, second, offsets)


def put(t: Tape, x: Value, order: Value, rows: int) -> Value:
    """A new tensor of `rows`, with those of x put where `order` says: its gradient is read there."""
    out = t.new((rows, x.shape[-1]), x.dtype)
    out.node = record(t, _put_backward, (x,), (order,))
    return out


def _put_backward(node: Node, g: Value) -> Gradients:
    _order = node.load()
    return (g.tape.new(node.shape(0), g.dtype),)
