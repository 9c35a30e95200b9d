"""JetMoE: experts that are the queries' and the outputs' projections, each run on its own rows (modeling_jetmoe.py).

How many rows an expert gets depends on the data; here all get as many, as a balanced router sends them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from memcalc.blocks.attention import Attention
from memcalc.blocks.mlp import Experts, LinearRouter, Moe
from memcalc.tape import functions as f
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.attention import attend
from memcalc.tape.hf.rotary import rotated
from memcalc.tape.hf.routers import logits_of
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


class Topology(NamedTuple):
    """Which rows go where: the order of the choices, the tokens they are of, and their gates."""

    order: Value
    tokens: Value
    gates: Value


@rule(Attention, "jetmoe")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """JetMoeAttention.forward: keys and values repeated for every expert that a token has its queries of."""
    b, s = x.shape[:2]
    mixture = block.q
    assert isinstance(mixture, Moe)  # noqa: S101 - the architecture has made it so
    with inside(t, mixture):
        q, topology = mapped(t, mixture, x, around)
    k, v = f.chunk(run(t, block.k, x, around), 2)
    q, k, v = (f.transpose(f.view(part, b, s, -1, block.head_dim), 1, 2) for part in (q, k, v))
    tables = around.tables(block.rotary_kind)
    q, k = rotated(q, k, tables) if tables else (q, k)
    k, v = (f.repeat(part, mixture.top_k, 1) for part in (k, v))
    out = attend(t, replace(block, kv_heads=block.heads), q, k, v, around)
    with inside(t, mixture):
        return reduced(t, mixture, f.view(out, b, s, mixture.top_k, -1), topology)


@rule(Moe, "jetmoe")
def mlps(t: Tape, block: Moe, x: Value, around: Around) -> Value:
    """JetMoeMoE.forward."""
    rows = f.reshape(x, -1, x.shape[-1])
    topology = gating(t, block, rows, around)
    inner = each(t, block, 0, f.index(rows, topology.tokens, (topology.tokens.shape[0], rows.shape[1])))
    first, second = f.chunk(inner, 2)
    assert isinstance(block.experts, Experts)  # noqa: S101
    out = each(t, block, 1, f.mul(activate(block.experts.activation, first), second))
    return merged(t, out, topology, x)


def mapped(t: Tape, block: Moe, x: Value, around: Around) -> tuple[Value, Topology]:
    """JetMoeMoA.map: (queries [batch, seq, top_k, width], where their rows went)."""
    rows = f.reshape(x, -1, x.shape[-1])
    topology = gating(t, block, rows, around)
    out = each(t, block, 0, f.index(rows, topology.tokens, (topology.tokens.shape[0], rows.shape[1])))
    zeros = t.new(out.shape, out.dtype)
    back = added(zeros, topology.order, out)
    return f.view(back, *x.shape[:2], block.top_k, -1), topology


def reduced(t: Tape, block: Moe, x: Value, topology: Topology) -> Value:
    """JetMoeMoA.reduce."""
    rows = f.reshape(x, -1, x.shape[-1])
    out = each(t, block, 1, f.index(rows, topology.order, rows.shape))
    return merged(t, out, topology, x)


def merged(t: Tape, out: Value, topology: Topology, x: Value) -> Value:
    """Every row times its gate, added up for each token, and the bias that the experts share."""
    out = f.mul(out, f.unsqueeze(topology.gates, -1))
    zeros = t.new((x.shape[0] * x.shape[1], out.shape[1]), out.dtype)
    summed = f.view(added(zeros, topology.tokens, out), *x.shape[:2], -1)
    return f.add(summed, t.weight("bias", (out.shape[1],)))


def added(zeros: Value, where: Value, rows: Value) -> Value:
    """zeros.index_add(0, where, rows): a new tensor."""
    return f.index_add_(zeros.tape.new(zeros.shape, zeros.dtype), where, rows)


def gating(t: Tape, block: Moe, rows: Value, around: Around) -> Topology:
    """JetMoeTopKGating.forward."""
    count, experts = rows.shape[0] * block.top_k, _experts(block)
    logits = f.to(run(t, replace_formula(block.router), rows, around), "fp32")
    values, chosen = f.topk(logits, block.top_k)
    gates = f.to(f.softmax(values), rows.dtype)
    zeros = t.new((rows.shape[0], experts.experts), rows.dtype)
    marks = t.new(zeros.shape, rows.dtype)
    t.new(marks.shape, "int64")
    order, tokens = t.new((count,), "int64"), t.new((count,), "int64")
    del zeros, marks, chosen
    return Topology(order, tokens, f.index(f.reshape(gates, -1), order, (count,)))


def replace_formula(router: object) -> LinearRouter:
    """The router as the linear layer that it is."""
    assert isinstance(router, LinearRouter)  # noqa: S101
    return replace(router, formula="linear")


@rule(LinearRouter, "linear")
def logits_alone(t: Tape, block: LinearRouter, x: Value, around: Around) -> Value:
    """nn.Linear.forward."""
    return logits_of(t, block, x)


def each(t: Tape, block: Moe, which: int, rows: Value) -> Value:
    """JetMoeParallelExperts.forward: every expert's rows times its own slice of the weight, put together again."""
    experts = _experts(block)
    param, count = experts.params[which], experts.experts
    weight = t.weight(param.name, param.shape)
    share, rest = divmod(rows.shape[0], count)
    parts = f.split(rows, [share + (number < rest) for number in range(count)], 0)
    return f.cat([f.linear(part, f.select(weight, 0)) for part in parts], 0)


def _experts(block: Moe) -> Experts:
    assert isinstance(block.experts, Experts)  # noqa: S101 - the architecture has made it so
    return block.experts
