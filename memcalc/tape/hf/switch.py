"""Switch Transformers: each token to one expert, as many as the experts have room for (modeling_switch_transformers.py).

Which expert a token goes to depends on the data: here the experts get as many each, up to their capacity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.mlp import Moe
from memcalc.tape import functions as f
from memcalc.tape.hf.experts import alike, through
from memcalc.tape.rules import Around, inside, rule

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Moe, "switch")
def mixture(t: Tape, block: Moe, x: Value, around: Around) -> Value:
    """SwitchTransformersSparseMLP.forward, and SwitchTransformersExperts.forward with all experts as one."""
    b, s, width = x.shape
    assert block.experts  # noqa: S101 - the architecture gives it some
    name, expert, count = alike(block.experts)
    probabilities, chosen = routed(t, block, x, count)
    rows = f.view(x, -1, width)
    taken = b * min(s, count * (block.capacity or s))
    out, where, which = t.new(rows.shape, x.dtype), t.new((taken,), "int64"), t.new((taken,), "int64")
    with inside(t, block.experts):
        path, t.path = t.path, f"{t.path}.{name}"
        states = through(t, expert, count, f.index(rows, where, (taken, width)))
        t.path = path
    weights = f.index(f.reshape(probabilities, -1, 1), where, (taken, 1))
    out = f.index_add_(out, where, f.mul(states, weights))
    del chosen, which
    return f.reshape(out, b, s, width)


def routed(t: Tape, block: Moe, x: Value, count: int) -> tuple[Value, Value]:
    """SwitchTransformersTop1Router.forward: in fp32, with noise; (the probability of each token's expert, its mask)."""
    wide = f.to(x, "fp32")
    if block.jitter and not t.setting.evaluating:
        wide = f.mul(wide, t.new(wide.shape, "fp32"))
    assert block.router  # noqa: S101
    with inside(t, block.router):
        logits = f.linear(wide, f.to(t.weight("weight", (count, x.shape[-1])), "fp32"))
    probabilities = f.to(f.softmax(logits, "fp32"), x.dtype)
    hot = t.new(logits.shape, "int64")
    order, within = t.new(logits.shape, "int64"), t.new(logits.shape, "bool")
    chosen = t.new(logits.shape, "int64")
    del hot, order, within
    return f.largest(probabilities), chosen
