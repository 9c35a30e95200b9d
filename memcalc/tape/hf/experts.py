"""Mixtures of experts: stacked experts through grouped matrix products (integrations/moe.py).

The grouped product is transformers' default: every token is copied once for each expert it goes to, whatever the
router chooses, so that sizes do not depend on the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.basic import Linear
from memcalc.blocks.mlp import Experts, Mlp, Moe
from memcalc.tape import functions as f
from memcalc.tape.hf import liger
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.stacked_experts import (
    batched_linear,
    expert_bias,
    expert_linear,
    gate,
    row_weights,
    swiglu,
)
from memcalc.tape.rules import Around, inside, rule, run
from memcalc.tape.units import hooked
from memcalc.tensors import numbers

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.blocks.base import Block, Stack
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Moe)
def mixture(t: Tape, block: Moe, x: Value, around: Around) -> Value:
    """MixtralSparseMoeBlock.forward; with shared experts Qwen2MoeSparseMoeBlock's and DeepseekV3MoE's."""
    for _ in range(0 if t.setting.evaluating else block.noises):
        x = f.mul_(x, t.new(x.shape, x.dtype))
    if "token-choice" in t.setting.fused:
        from memcalc.tape.hf import token_choice  # noqa: PLC0415 - torchtitan's alone

        return token_choice.mixture(t, block, x, around)
    rows = f.view(x, -1, x.shape[-1])
    first = block.shared_gate is not None or block.shared_first
    shared = run(t, block.shared, rows, around) if block.shared and first else None
    weights, chosen = choose(t, block, rows, around)
    narrow = run(t, block.into, rows, around) if block.into else rows
    out = routed(t, block, narrow, weights, chosen)
    if block.out_of:
        out = run(t, block.out_of, out, around)
    out = f.scale(out) if block.scales else out
    if shared is not None and block.shared_gate:
        gate = f.sigmoid(run(t, block.shared_gate, rows, around))
        out = f.add(out, f.mul(gate, shared))
    elif shared is not None:
        out = f.add(out, shared)
    out = f.view(out, *x.shape)
    if block.shared and block.averaged:
        later = run(t, block.shared, x, around)
        out = f.scale(f.add(out, later))
    elif block.shared and not first:
        out = f.add(out, run(t, block.shared, x, around))
    return run(t, block.norm, out, around) if block.norm else out


def choose(t: Tape, block: Moe, rows: Value, around: Around) -> tuple[Value, Value]:
    """(weights, experts) of every token, [tokens, top_k] each."""
    around.chosen = None
    logits = run(t, block.router, rows, around)
    if block.reports and not around.again:
        t.routed.append((logits, block.top_k, t.like))
    weights, chosen = around.chosen or (
        t.new((rows.shape[0], block.top_k), "fp32"),
        t.new((rows.shape[0], block.top_k), "int64"),
    )
    around.chosen = None
    return weights, chosen


def routed(t: Tape, block: Moe, rows: Value, weights: Value, chosen: Value) -> Value:
    """The experts' share, run as grouped products."""
    before = t.path
    experts = block.experts
    t.path = t.owner = f"{before}.{experts.name}" if experts and experts.name else before
    ways = t.setting.ways
    if isinstance(experts, Experts) and ways and ways.expert > 1:
        from memcalc.tape.hf.expert_parallel import exchanged  # noqa: PLC0415 - few runs share experts out

        out = exchanged(t, experts, rows, weights, chosen)
    elif isinstance(experts, Experts) and "experts" in t.setting.fused:
        out = liger.experts(t, experts, rows, weights, chosen)
    elif isinstance(experts, Experts) and experts.implementation == "batched_mm":
        out = batched(t, experts, rows, weights, chosen)
    elif isinstance(experts, Experts) and experts.implementation == "eager":
        from memcalc.tape.hf.looping import looped  # noqa: PLC0415 - few are run so

        out = looped(t, experts, rows, weights, chosen)
    elif isinstance(experts, Experts):
        out = hooked(t, t.path, lambda given: grouped(t, experts, given, weights, chosen), rows)
    else:
        out = apart(t, experts, rows, weights, chosen)  # type: ignore[arg-type]  # a stack of MLPs
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
    _counted = f.to(order.detach(), "fp32")
    _counts, offsets = t.new((block.experts,), "fp32"), t.new((block.experts,), "int32")
    bias = expert_bias(t, block, 0, copies, order)  # held until the next takes its name
    merged: list[Value] = []  # parametrizations are cached until the experts return
    out = expert_linear(t, block, 0, selected, offsets, bias, merged)
    out = gate(block, out) if block.gated else activate(block.activation, out)
    bias = expert_bias(t, block, 1, copies, order)
    out = expert_linear(t, block, 1, out, offsets, bias, merged)
    weighted = f.mul(out, f.unsqueeze(weights, -1))
    inverse = t.new((copies,), "int64")
    weighted = f.index(weighted, inverse, weighted.shape)
    final = f.total(f.view(weighted, tokens, -1, weighted.shape[-1]), 1)
    return f.to(final, x.dtype)


def batched(t: Tape, block: Experts, x: Value, weights: Value, chosen: Value) -> Value:
    """batched_mm_experts_forward: every row multiplied by a copy of its own expert's weights."""
    tokens, top_k = chosen.shape
    rows, expert = f.repeat_interleave(x, top_k, 0), f.reshape(chosen, -1)
    weights = f.reshape(weights, -1)
    selected, bias = row_weights(t, block, 0, expert)
    out = batched_linear(block, rows, selected, bias)
    out = gate(block, out) if block.gated else activate(block.activation, out)
    selected, bias = row_weights(t, block, 1, expert)
    out = batched_linear(block, out, selected, bias)
    weighted = f.mul(out, f.unsqueeze(weights, -1))
    final = f.total(f.view(weighted, tokens, -1, weighted.shape[-1]), 1)
    return f.to(final, x.dtype)


def apart(t: Tape, block: Stack, x: Value, weights: Value, chosen: Value) -> Value:
    """DeepseekMoE.forward in training (remote code): a copy of the tokens for each choice, experts as MLPs of their own.

    As one MLP over as many rows as all of them get.
    """
    copies, top_k = x.shape[0] * chosen.shape[-1], chosen.shape[-1]
    name, expert, count = alike(block)
    rows = f.repeat_interleave(x, top_k, 0)
    out, where = t.new(rows.shape, rows.dtype), t.new((copies,), "bool")
    rows = f.index(rows, where, rows.shape)
    path, t.path = t.path, f"{t.path}.{name}"
    out = f.scatter(out, where, through(t, expert, count, rows))
    t.path = path
    final = f.total(f.mul(f.view(out, *chosen.shape, -1), f.unsqueeze(weights, -1)), 1)
    return f.to(final, x.dtype)


def alike(block: Block) -> tuple[str, Mlp, int]:
    """(name, MLP, how many) of experts that are modules of their own: numbered layers, or names of their own."""
    ((indices, first), *others) = block.groups()
    expert = first if isinstance(first, Mlp) else next(iter(first.parts()))
    assert isinstance(expert, Mlp)  # noqa: S101 - the architecture has made it so
    if indices is None:
        return first.name, expert, 1 + len(others)
    return numbers(indices), expert, len(indices)


def through(t: Tape, expert: Mlp, count: int, rows: Value) -> Value:
    """`count` experts as one, over as many rows as all of them get."""
    *first, down = (each_linear(part, count) for part in expert.parts())
    states = activate(expert.activation, first[0](t, rows))
    if len(first) > 1:
        states = f.mul(states, first[1](t, rows))
    return down(t, f.dropout(states, expert.dropout))


def each_linear(block: Block, count: int) -> Callable[[Tape, Value], Value]:
    """A linear layer of each of `count` experts, as one grouped product."""
    assert isinstance(block, Linear)  # noqa: S101 - parts of a gated MLP

    def product(t: Tape, x: Value) -> Value:
        with inside(t, block):
            weight = t.weight("weight", (count, block.outputs, block.inputs))
            return f.grouped_mm(f.lower(x), f.lower(f.swap(weight)), t.given((count,), "int32", "offsets"))

    return product


@rule(Mlp, "gpt_oss")
def clamped_mlp(t: Tape, block: Mlp, x: Value, around: Around) -> Value:
    """MiniMaxM3VLDenseMLP.forward: gpt-oss' gate of two clamped halves."""
    first, up = f.chunk(run(t, block.up, x, around), 2)
    return run(t, block.down, swiglu(f.clamp(first), f.clamp(up)), around)


@rule(Mlp, "step")
def late_clamped(t: Tape, block: Mlp, x: Value, around: Around) -> Value:
    """Step3p7MLP.forward: both factors clamped, one behind its activation."""
    first = f.clamp(activate(block.activation, run(t, block.gate, x, around)))
    up = f.clamp(run(t, block.up, x, around))
    out = run(t, block.down, f.mul(first, up), around)
    del first, up  # names of the function
    return out
