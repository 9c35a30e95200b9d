"""Experts one after the other, each on the rows it gets: their classes' own forward (`experts_implementation: eager`).

Which rows go to which expert depends on the data; here all get as many, as a balanced router sends them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.adapters import adapted_weight
from memcalc.tape.hf.stacked_experts import expert_weight, gate
from memcalc.tape.loops import loop

if TYPE_CHECKING:
    from memcalc.blocks.mlp import Experts
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def looped(t: Tape, block: Experts, x: Value, weights: Value, chosen: Value) -> Value:
    """MixtralExperts.forward and its kin, DbrxExperts' and LongcatFlashExperts', whose last experts are the identity."""
    stacks, biases = parameters(t, block)
    count = stacks[0].shape[0]
    share = max(1, chosen.elements // count)
    mask, hit = t.new((*chosen.shape, count + 1), "int64"), t.new((count, 1), "int64")
    real = stacks[-1].shape[0]

    def one(out: Value, *, identity: bool = False) -> Value:
        where = t.new((share, 2), "int64")
        states = _wide(block, f.index(x, where, (share, x.shape[1])))
        if not identity:
            own = ([_wide(block, f.select(each, 0)) for each in of] for of in (stacks, biases))
            states = expert(block, states, *own)
        states = f.mul(states, f.index(weights, where, (share, 1)))
        return f.index_add_(out, where, f.to(states, out.dtype))

    out = loop(t, real, one, t.new(x.shape, "fp32" if block.formula in WIDE else x.dtype))
    for _ in range(count - real):
        out = one(out, identity=True)
    del mask, hit
    return f.to(out, x.dtype)


WIDE = frozenset({"privacy"})  # experts that run in fp32, on copies of their weights (OpenAIPrivacyFilterExperts)


def _wide(block: Experts, x: Value) -> Value:
    return f.to(x, "fp32") if block.formula in WIDE else x


def parameters(t: Tape, block: Experts) -> tuple[list[Value], list[Value]]:
    """The experts' weights, stacked, and their biases."""
    found = {param.name: adapted_weight(t, expert_weight(t, param)) for param in block.params}
    stacks = [value for name, value in found.items() if not name.endswith("bias")]
    if block.formula == "dbrx":
        stacks = [f.view(value, block.experts, block.width, value.shape[1]) for value in stacks]
    return stacks, [value for name, value in found.items() if name.endswith("bias")]


def expert(block: Experts, x: Value, weights: list[Value], biases: list[Value]) -> Value:
    """One expert on its rows: from its slices of the weights."""
    if block.formula == "dbrx":
        first, second, last = weights
        states = f.mul(activate(block.activation, f.linear(x, first)), f.linear(x, second))
        return f.linear(states, f.swap(last))
    first, last = (f.swap(weight) if block.transposed else weight for weight in weights)
    out = f.linear(x, first)
    out = f.add(out, biases[0]) if biases else out
    out = gate(block, out) if block.gated else activate(block.activation, out)
    out = f.linear(out, last)
    return f.add(out, biases[1]) if biases else out
