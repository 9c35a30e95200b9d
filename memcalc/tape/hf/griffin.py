"""Griffin's recurrent blocks as transformers runs them: token by token (modeling_recurrent_gemma.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.ssm import RgLru
from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.dual import causal_conv
from memcalc.tape.loops import loop
from memcalc.tape.rules import Around, gone, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(RgLru)
def recurrent_block(t: Tape, block: RgLru, x: Value, around: Around) -> Value:
    """RecurrentGemmaRecurrentBlock.forward."""
    y = activate(block.activation, run(t, block.y, x, around))
    hidden = f.transpose(run(t, block.x, x, around), 1, 2)
    hidden = causal_conv(t, block.conv, hidden)  # type: ignore[arg-type]
    hidden = recurrence(t, block, f.transpose(hidden, 1, 2))
    return run(t, block.out, f.mul(hidden, y), around)


def recurrence(t: Tape, block: RgLru, x: Value) -> Value:
    """RecurrentGemmaRglru.forward: gates that are block-diagonal over the heads, an input scaled to keep its norm."""
    heads, width = block.heads, block.width // block.heads
    start = t.new((1, x.shape[1], 1), "bool")
    apart = f.permute(f.reshape(x, x.shape[0] * x.shape[1], heads, width), 1, 0, 2)
    res = by_head(t, "input", apart, heads, width)
    into = f.sigmoid(f.reshape(f.transpose(res, 0, 1), *x.shape))
    res = by_head(t, "recurrent", apart, heads, width)
    forget = f.sigmoid(f.reshape(f.transpose(res, 0, 1), *x.shape))
    decay = f.mul(f.scale(forget), f.softplus(t.weight("rg_lru.recurrent_param", (block.width,))))
    forget = f.exp(decay)
    square = f.exp(f.scale(decay))
    gated = f.mul(x, into)
    factor = bounded_root(f.shift(f.neg(square)))
    factor = f.shift(f.mul(f.compare(start), factor))
    return scan(t, f.mul(gated, f.to(factor, x.dtype)), f.mul(forget, f.compare(start)))


def by_head(t: Tape, name: str, x: Value, heads: int, width: int) -> Value:
    """A gate's product for each head, which has a name until the next one takes it; `x` is [heads, tokens, width]."""
    weight = t.weight(f"rg_lru.{name}_gate_weight", (heads, width, width))
    bias = t.weight(f"rg_lru.{name}_gate_bias", (heads, width))
    return f.baddbmm(f.unsqueeze(bias, 1), x, weight)


def bounded_root(x: Value) -> Value:
    """SqrtBoundDerivative: saves its input; the gradient is divided by a root that is clipped from below."""
    out = x.tape.new(x.shape, x.dtype, x.strides)
    out.node = record(x.tape, _bounded_root_backward, (x,), (x,))
    return out


def _bounded_root_backward(node: Node, g: Value) -> Gradients:
    (x,) = node.load()
    root = f.scale(f.scale(f.scale(x)))
    out = g.tape.new(g.shape, g.dtype)
    del root
    return (out,)


def scan(t: Tape, x: Value, forget: Value) -> Value:
    """RecurrentGemmaRglru._rnn_scan: states in fp32, of which the module holds on to the last, and so to its graph."""
    (b, s, width), read = x.shape, [x, forget]

    def step(carried: tuple[Value, Value]) -> tuple[Value, Value]:
        (state, out), (x, forget) = carried, read
        state = f.mul(f.to(f.select(forget, 1), "fp32"), state)
        state = f.add(state, f.to(f.select(x, 1), "fp32"))
        return state, f.assign(out, f.to(state, x.dtype))

    state, out = loop(t, s, step, (t.new((b, width), "fp32"), t.new(x.shape, x.dtype, x.strides)))
    t.held.append(state)
    del x, forget
    gone(read)
    return out
