"""Mixtures of experts: routers, and stacked experts through grouped matrix products (integrations/moe.py).

The grouped product is transformers' default: every token is copied once for each expert it goes to, whatever the
router chooses, so that sizes do not depend on the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.mlp import Experts, LinearRouter, Moe, Router
from memcalc.tape import functions as f
from memcalc.tape.hf.basic import activate
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Moe)
def mixture(t: Tape, block: Moe, x: Value, around: Around) -> Value:
    """MixtralSparseMoeBlock.forward; with shared experts Qwen2MoeSparseMoeBlock's and DeepseekV3MoE's."""
    rows = f.view(x, -1, x.shape[-1])
    shared = run(t, block.shared, rows, around) if block.shared and block.shared_gate else None
    weights, chosen = choose(t, block, rows, around)
    narrow = run(t, block.into, rows, around) if block.into else rows
    out = routed(t, block, narrow, weights, chosen)
    if block.out_of:
        out = run(t, block.out_of, out, around)
    if shared is not None:
        gate = f.sigmoid(run(t, block.shared_gate, rows, around))
        out = f.add(out, f.mul(gate, shared))
    out = f.view(out, *x.shape)
    if block.shared and not block.shared_gate:
        out = f.add(out, run(t, block.shared, x, around))
    return out


def choose(t: Tape, block: Moe, rows: Value, around: Around) -> tuple[Value, Value]:
    """(weights, experts) of every token, [tokens, top_k] each."""
    around.chosen = None
    run(t, block.router, rows, around)
    weights, chosen = around.chosen or (t.new((rows.shape[0], block.top_k), "fp32"), t.new((rows.shape[0], block.top_k), "int64"))  # noqa: E501
    around.chosen = None
    return weights, chosen


def routed(t: Tape, block: Moe, rows: Value, weights: Value, chosen: Value) -> Value:
    """The experts' share, run as grouped products."""
    before = t.path
    experts = block.experts
    t.path = t.owner = f"{before}.{experts.name}" if experts and experts.name else before
    out = grouped(t, experts, rows, weights, chosen)  # type: ignore[arg-type]  # stacked in transformers 5
    t.path = t.owner = before
    return out


def grouped(t: Tape, block: Experts, x: Value, weights: Value, chosen: Value) -> Value:
    """grouped_mm_experts_forward."""
    tokens, hidden = x.shape
    copies = tokens * chosen.shape[-1]
    weights = f.reshape(weights, -1)
    order, permutation = t.new((copies,), "int64"), t.new((copies,), "int64")
    selected = f.index(x, f.scale(permutation), (copies, hidden))
    weights = f.index(weights, permutation, (copies,))
    counted = f.to(order.detach(), "fp32")
    counts, offsets = t.new((block.experts,), "fp32"), t.new((block.experts,), "int32")
    out = expert_linear(t, block, 0, selected, offsets, order)
    out = gate(block, out) if block.gated else activate(block.activation, out)
    out = expert_linear(t, block, 1, out, offsets, order)
    weighted = f.mul(out, f.unsqueeze(weights, -1))
    inverse = t.new((copies,), "int64")
    weighted = f.index(weighted, inverse, weighted.shape)
    final = f.total(f.view(weighted, tokens, -1, weighted.shape[-1]), 1)
    del counted, counts
    return f.to(final, x.dtype)


def expert_linear(t: Tape, block: Experts, which: int, x: Value, offsets: Value, order: Value) -> Value:
    """_grouped_linear: the product, and every row's bias added in place."""
    names = [param for param in block.params if not param.name.endswith("bias")]
    param, transposed = names[which], block.formula == "gpt_oss"
    weight = t.weight(param.name, param.shape)
    out = f.grouped_mm(f.to(x, weight.dtype), weight if transposed else f.swap(weight), offsets)
    bias = next((p for p in block.params if p.name == f"{param.name}_bias"), None)
    if bias:
        rows = f.index(t.weight(bias.name, bias.shape), order, (x.shape[0], bias.shape[1]))
        out = f.add_(out, rows)
    return out


def gate(block: Experts, x: Value) -> Value:
    """_default_apply_gate; GptOssExperts._apply_gate, which clamps both and adds 1."""
    if block.formula != "gpt_oss":
        first, up = f.chunk(x, 2)
        return f.mul(activate(block.activation, first), up)
    half = x.shape[-1] // 2
    first, up = f.narrow(x, -1, half), f.narrow(x, -1, half)
    first, up = f.clamp(first), f.clamp(up)
    glu = f.mul(first, f.sigmoid(f.scale(first)))
    return f.mul(f.shift(up), glu)


@rule(Router, "", "minimax_m2", "lfm2_moe")
def router(t: Tape, block: Router, x: Value, around: Around) -> Value:
    """MixtralTopKRouter.forward and its kin: scores in fp32, the best of them, as weights that sum to 1."""
    weight = t.weight("weight", (block.experts, block.inputs))
    bias = t.weight("bias", (block.experts,)) if block.bias else None
    logits = f.linear(f.to(x, "fp32"), f.to(weight, "fp32"), bias) if block.fp32 else f.linear(x, weight, bias)
    weights, chosen = scored(t, block, logits)
    if block.cast_back:
        weights = f.to(weights, logits.dtype)
    around.chosen = (weights, chosen)
    return logits


def scored(t: Tape, block: Router, logits: Value) -> tuple[Value, Value]:
    """From logits to the chosen experts and their weights."""
    match block.scores:
        case "softmax":
            weights, chosen = f.topk(f.softmax(logits, "fp32"), block.top_k)
        case "softmax-chosen":
            values, chosen = f.topk(logits, block.top_k)
            return f.softmax(values), chosen
        case _:
            weights, chosen = sigmoid_scored(t, block, logits)
    if block.normalized:
        weights = f.div(weights, f.total(weights, -1, keep=True))
    return weights, chosen


def sigmoid_scored(t: Tape, block: Router, logits: Value) -> tuple[Value, Value]:
    """DeepseekV3TopkRouter.forward: the choice is made of corrected scores, group by group, without gradients."""
    scores = f.sigmoid(logits)
    with t.no_grad():
        _, chosen = f.topk(f.shift(scores), block.top_k)
    return f.gather(scores, chosen, chosen.shape), chosen


@rule(LinearRouter, "", "phimoe")
def linear_router(t: Tape, block: LinearRouter, x: Value, around: Around) -> Value:
    """A router that is an nn.Linear."""
    return router(t, block, x, around)
