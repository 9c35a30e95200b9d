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
from memcalc.tape.hf.adapters import adapted_weight
from memcalc.tape.rules import Around, inside, rule, run
from memcalc.tape.units import hooked
from memcalc.tensors import numbers

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.blocks.base import Block, Param, Stack
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


def row_weights(t: Tape, block: Experts, which: int, expert: Value) -> tuple[Value, Value | None]:
    """A copy of its expert's weight, and bias, for each row."""
    param, rows = weight_of(block, which), expert.shape[0]
    weight = adapted_weight(t, expert_weight(t, param))
    selected = f.index(weight, expert, (rows, *param.shape[1:]))
    return selected, expert_bias(t, block, which, rows, expert)


def batched_linear(block: Experts, x: Value, weight: Value, bias: Value | None) -> Value:
    """_batched_linear."""
    if block.transposed:
        out = f.squeeze(f.bmm(*(f.lower(part) for part in (f.unsqueeze(x, 1), weight))), 1)
    else:
        out = f.squeeze(f.bmm(*(f.lower(part) for part in (weight, f.unsqueeze(x, -1)))), -1)
    return f.add_(out, bias) if bias else out


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


def weight_of(block: Experts, which: int) -> Param:
    """The experts' first weight, or their second."""
    return [param for param in block.params if not param.name.endswith("bias")][which]


def expert_weight(t: Tape, param: Param) -> Value:
    """The weight, unpacked whole where bitsandbytes keeps it by parametrization (nn/parametrize.py): autograd saves the copy."""
    if t.setting.packing.parametrized and t.weights.packed(t.path):
        return t.new(param.shape, t.setting.compute)
    return t.weight(param.name, param.shape)


def expert_bias(t: Tape, block: Experts, which: int, rows: int, order: Value) -> Value | None:
    """Every row's bias, where the experts have one."""
    name = f"{weight_of(block, which).name}_bias"
    bias = next((param for param in block.params if param.name == name), None)
    return f.index(t.weight(name, bias.shape), order, (rows, bias.shape[1])) if bias else None


def expert_linear(
    t: Tape, block: Experts, which: int, x: Value, offsets: Value, bias: Value | None, merged: list[Value]
) -> Value:
    """_grouped_linear: the product, and every row's bias added in place; the weight is among `merged` from then on."""
    weight = adapted_weight(t, expert_weight(t, weight_of(block, which)))
    merged.append(weight)
    out = f.grouped_mm(f.to(x, weight.dtype), weight if block.transposed else f.swap(weight), offsets)
    return f.add_(out, bias) if bias else out


CLAMPED = frozenset({"gpt_oss", "minimax_m3", "deepseek_v4", "step", "privacy"})


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


def swiglu(first: Value, up: Value) -> Value:
    """(up + 1) * first * sigmoid(alpha * first)."""
    glu = f.mul(first, f.sigmoid(f.scale(first)))
    return f.mul(f.shift(up), glu)


def gate(block: Experts, x: Value) -> Value:
    """_default_apply_gate; GptOssExperts._apply_gate, which clamps both and adds 1; BeamExperts', in fp32."""
    if block.formula == "beam":
        first, up = f.chunk(x, 2)
        return f.to(f.mul(activate(block.activation, f.to(first, "fp32")), f.to(up, "fp32")), x.dtype)
    if block.formula not in CLAMPED:
        first, up = f.chunk(x, 2)
        return f.mul(activate(block.activation, first), up)
    if block.formula == "gpt_oss":
        half = x.shape[-1] // 2
        first, up = f.narrow(x, -1, half), f.narrow(x, -1, half)
    else:
        first, up = f.chunk(x, 2)
    if block.formula == "step":
        return f.mul(f.clamp(activate(block.activation, first)), f.clamp(up))
    first, up = f.clamp(first), f.clamp(up)
    if block.formula == "deepseek_v4":
        return f.mul(activate(block.activation, first), up)
    return swiglu(first, up)
