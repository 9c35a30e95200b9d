"""Llama 4's text layers: complex rotations, norms behind them, and experts that every token is sent to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.basic import Norm
from memcalc.blocks.mlp import Moe
from memcalc.tape import functions as f
from memcalc.tape.hf import token_choice
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.attention import attend, project
from memcalc.tape.hf.latent import complex_rotated
from memcalc.tape.hf.norms import rms_norm
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.mlp import Experts, Router
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Norm, "llama4")
def l2_norm(t: Tape, block: Norm, x: Value, around: Around) -> Value:
    """Llama4TextL2Norm.forward."""
    return rms_norm(t, block, x)


@rule(Attention, "llama4")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Llama4TextAttention.forward: rotated before the heads are transposed; without a rotation a temperature.

    torchtitan's has neither norms nor temperatures (models/llama4/model/model.py).
    """
    b, s = x.shape[:2]
    q, k, v = (f.view(run(t, part, x, around), b, s, -1, block.head_dim) for part in (block.q, block.k, block.v))
    tables = around.tables(block.rotary_kind)
    if block.rotary_dim and tables:
        q, k = complex_rotated(q, k, tables, 2)
    elif "token-choice" not in t.setting.fused:
        q = f.to(f.mul(q, t.new((1, s, 1, 1), "fp32")), q.dtype)
    if block.q_norm and "token-choice" not in t.setting.fused:
        q, k = run(t, block.q_norm, q, around), run(t, block.q_norm, k, around)
    q, k, v = (f.transpose(part, 1, 2) for part in (q, k, v))
    return project(t, block, attend(t, block, q, k, v, around), around)


@rule(Moe, "llama4")
def mixture(t: Tape, block: Moe, x: Value, around: Around) -> Value:
    """Llama4TextMoe.forward: a copy of all tokens for each expert, most of them times zero."""
    if "token-choice" in t.setting.fused:
        return token_choice.mixture(t, block, x, around)
    rows = f.reshape(x, -1, x.shape[-1])
    scores = routed(t, block.router, rows)  # type: ignore[arg-type]
    copies = f.repeat(rows, scores.shape[1])
    copies = f.mul(copies, f.reshape(f.transpose(scores, 0, 1), -1, 1))
    out = through(t, block.experts, copies)  # type: ignore[arg-type]
    shared = run(t, block.shared, rows, around)
    out = f.total(f.reshape(out, scores.shape[1], -1, out.shape[-1]), 0)
    return f.view(f.add_(shared, out), *x.shape)


def routed(t: Tape, block: Router, x: Value) -> Value:
    """Llama4Router.forward: the sigmoid of the chosen logits, zero for all others."""
    with inside(t, block):
        logits = f.linear(x, t.weight("weight", (block.experts, block.inputs)))
        values, chosen = f.topk(logits, block.top_k)
        scores = f.scatter(t.new(logits.shape, logits.dtype), chosen, values)
        return f.to(f.sigmoid(f.to(scores, "fp32")), scores.dtype)


def through(t: Tape, block: Experts, x: Value) -> Value:
    """Llama4TextExperts.forward."""
    with inside(t, block):
        first, second = (t.weight(param.name, param.shape) for param in block.params)
        both = f.bmm(f.lower(f.view(x, block.experts, -1, x.shape[-1])), f.lower(first))
        gate, up = f.chunk(both, 2)
        out = f.bmm(f.mul(up, activate(block.activation, gate)), f.lower(second))
        return f.view(out, -1, out.shape[-1])
