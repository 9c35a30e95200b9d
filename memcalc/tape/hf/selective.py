"""Mamba as transformers runs it without kernels: its recurrence token by token (modeling_mamba.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.ssm import Mamba, MambaHeads
from memcalc.tape import functions as f
from memcalc.tape.hf.dual import causal_conv
from memcalc.tape.loops import loop
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Mamba)
def selective(t: Tape, block: Mamba, x: Value, around: Around) -> Value:
    """MambaMixer.forward, and those of Falcon-Mamba and Jamba, which norm the time step, B and C."""
    projected = f.transpose(run(t, block.in_proj, x, around), 1, 2)
    decay = f.neg(f.exp(f.to(t.weight("A_log", (block.inner, block.state)), "fp32")))
    hidden, gate = f.chunk(projected, 2, 1)
    hidden = f.transpose(causal_conv(t, block.conv, hidden, block.activation), 1, 2)  # type: ignore[arg-type]
    parts = f.split(run(t, block.x_proj, hidden, around), (block.dt_rank, block.state, block.state))
    step, keys, queries = (
        (run(t, norm, p, around) for norm, p in zip(block.norms, parts, strict=True)) if block.norms else parts
    )
    with inside(t, block.dt_proj):  # type: ignore[arg-type]
        step = f.matmul(t.weight("weight", (block.inner, block.dt_rank)), f.transpose(step, 1, 2))
        bias = f.to(t.weight("bias", (block.inner,)), "fp32")
    skip = f.to(t.weight("D", (block.inner,)), "fp32")
    out = scan(
        t,
        f.transpose(hidden, 1, 2),
        f.add(step, f.unsqueeze(f.to(bias, step.dtype), -1)),
        decay,
        keys,
        queries,
        skip,
        gate,
    )
    return run(t, block.out_proj, f.to(f.transpose(out, 1, 2), x.dtype), around)


@rule(MambaHeads)
def in_heads(t: Tape, block: MambaHeads, x: Value, around: Around) -> Value:
    """ZambaMambaMixer.forward: every head selects by weights of its own, one scan after the other."""
    b, s = x.shape[:2]
    heads, dim, size = block.heads, block.inner // block.heads, block.dt_rank + 2 * block.state
    projected = f.view(f.transpose(run(t, block.in_proj, x, around), 1, 2), b, -1, 2, s)
    hidden, gate = f.chunk(projected, 2, 2)
    hidden = f.contiguous(f.squeeze(hidden, 2))
    gate = f.transpose(f.reshape(gate, b, heads, dim, s), 0, 1)
    hidden = causal_conv(t, block.conv, hidden, block.activation)  # type: ignore[arg-type]
    hidden = f.transpose(f.reshape(hidden, b, heads, dim, s), 0, 1)
    chosen = f.matmul(f.unsqueeze(t.weight("x_proj_weight", (heads, size, dim)), 1), hidden)
    step, keys, queries = f.split(f.transpose(chosen, -1, -2), (block.dt_rank, block.state, block.state))
    step = f.matmul(f.unsqueeze(t.weight("dt_proj_weight", (heads, dim, block.dt_rank)), 1), f.transpose(step, -1, -2))
    bias = f.to(t.weight("dt_proj_bias", (heads, dim)), "fp32")
    decay = f.neg(f.exp(f.to(t.weight("A_log", (heads, dim, block.state)), "fp32")))
    skip = t.weight("D", (heads, dim))
    outputs = []
    for _ in range(heads):
        one, dt, a, k, q, z, own = (f.select(part, 0) for part in (hidden, step, decay, keys, queries, gate, bias))
        dt = f.add(dt, f.unsqueeze(f.to(own, dt.dtype), -1))
        outputs.append(scan(t, one, dt, a, k, q, f.to(f.select(skip, 0), "fp32"), z))
    out = f.cat(outputs, 1)
    return run(t, block.out_proj, f.to(f.transpose(out, 1, 2), x.dtype), around)


def scan(
    t: Tape, hidden: Value, step: Value, decay: Value, keys: Value, queries: Value, skip: Value, gate: Value
) -> Value:
    """mamba_selective_scan: [batch, channels, seq]; the decay and the input of every token are there all at once."""
    step = f.softplus(step)
    decays = f.exp(f.mul(f.unsqueeze(f.unsqueeze(decay, 0), 2), f.unsqueeze(step, 3)))
    weighted = f.mul(f.unsqueeze(step, 3), f.to(f.unsqueeze(keys, 1), "fp32"))
    inputs = f.mul(weighted, f.to(f.unsqueeze(hidden, 3), "fp32"))
    out = tokens(t, decays, inputs, queries, hidden.dtype)
    out = f.add(out, f.mul(hidden, f.unsqueeze(f.unsqueeze(skip, 0), 2)))
    return f.mul(out, f.silu(gate))


def tokens(t: Tape, decays: Value, inputs: Value, queries: Value, dtype: str) -> Value:
    """state = decay * state + input; output = state · C."""
    batch, inner, seq, size = inputs.shape
    outputs: list[Value] = []

    def step(state: Value) -> Value:
        state = f.add(f.mul(f.select(decays, 2), state), f.select(inputs, 2))
        out = f.matmul(f.to(state, dtype), f.unsqueeze(f.select(queries, 1), -1))
        outputs.append(f.select(out, 2))
        return state

    loop(t, seq, step, t.new((batch, inner, size), dtype))
    return f.stack(outputs, -1, seq)
