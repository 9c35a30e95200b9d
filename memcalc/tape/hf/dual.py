"""Mamba-2 as transformers runs it without kernels: its recurrence in chunks, by plain products (modeling_mamba2.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.ssm import Mamba2
from memcalc.tape import functions as f
from memcalc.tape.hf.activations import activate
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.basic import Conv, Norm
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Mamba2)
def dual(t: Tape, block: Mamba2, x: Value, around: Around) -> Value:
    """Mamba2Mixer.forward, and those of Bamba, Falcon-H1 (`scaled`), Granite 4, Nemotron-H and Zamba2."""
    projected = run(t, block.in_proj, f.scale(x) if block.scaled else x, around)
    if block.scaled:
        kept = t.setting.inputs or t.setting.weights  # a buffer, which FSDP does not cast
        projected = f.mul(projected, t.given((1, 1, projected.shape[-1]), kept, "mup_vector"))
    decay = f.neg(f.exp(f.to(t.weight("A_log", (block.heads,)), "fp32")))
    gate, mixed, step = f.split(projected, (block.inner, channels(block), block.heads))
    mixed = causal_conv(t, block.conv, f.transpose(mixed, 1, 2), block.activation)  # type: ignore[arg-type]
    hidden, keys, queries = f.split(f.transpose(mixed, 1, 2), (block.inner, *(block.state_groups * block.state,) * 2))
    out = scanned(t, block, hidden, step, decay, keys, queries)
    out = gated_norm(t, block.norm, out, gate) if block.norm else f.mul(out, f.silu(gate))  # type: ignore[arg-type]
    return run(t, block.out_proj, f.to(out, x.dtype), around)


def channels(block: Mamba2) -> int:
    """What goes through the convolution: x, B and C."""
    return block.inner + 2 * block.state_groups * block.state


def causal_conv(t: Tape, block: Conv, x: Value, activation: str = "") -> Value:
    """causal_conv1d_fn: padded on both sides, cut to the sequence; x is [batch, channels, seq]."""
    seq, kernel = x.shape[-1], block.kernel[0]
    with inside(t, block):
        weight = t.weight("weight", (block.outputs, 1, kernel))
        bias = t.weight("bias", (block.outputs,)) if block.bias else None
        wide = f.to(x, weight.dtype)  # conv1d's own until it returns
        out = f.narrow(f.conv(wide, weight, bias, (seq + kernel - 1,)), -1, seq)
        del wide
        if activation:
            out = activate(activation, out)
        return f.to(out, x.dtype)


def gated_norm(t: Tape, block: Norm, x: Value, gate: Value) -> Value:
    """MambaRMSNormGated.forward: times silu(gate) in fp32, then normalised in groups of channels."""
    dtype, shape = x.dtype, x.shape
    with inside(t, block):
        x = f.to(x, "fp32")
        x = f.mul(x, f.silu(f.to(gate, "fp32")))
        groups = f.view(x, *shape[:-1], -1, block.groups_of or shape[-1])
        variance = f.mean(f.square(groups), -1)
        groups = f.mul(groups, f.rsqrt(f.shift(variance)))
        x = f.view(groups, *shape)
        return f.mul(t.weight("weight", (block.width,)), f.to(x, dtype))


def scanned(t: Tape, block: Mamba2, hidden: Value, step: Value, decay: Value, keys: Value, queries: Value) -> Value:
    """mamba2_chunk_scan around its products: the time step, heads, padding to whole chunks, and D."""
    b, s, groups = hidden.shape[0], hidden.shape[1], block.state_groups
    hidden = f.view(hidden, b, s, block.heads, block.head_dim)
    keys, queries = (f.view(part, b, s, groups, block.state) for part in (keys, queries))
    step = f.clamp(f.softplus(f.add(step, f.to(t.weight("dt_bias", (block.heads,)), step.dtype))))
    hidden = f.to(hidden, "fp32")
    keys, queries = (f.repeat_interleave(f.to(p, "fp32"), block.heads // groups, 2) for p in (keys, queries))
    extra = -s % block.chunk
    skip = f.mul(f.unsqueeze(t.weight("D", (block.heads,)), -1), f.pad(hidden, 1, extra))
    hidden = f.mul(hidden, f.to(f.unsqueeze(step, -1), "fp32"))
    decay = f.mul(f.to(decay, hidden.dtype), f.to(step, "fp32"))
    hidden, decay, keys, queries = (chunked(x, extra, block.chunk) for x in (hidden, decay, keys, queries))
    given = [hidden, step, decay, keys, queries, skip]
    del hidden, step, decay, keys, queries, skip
    out = in_chunks(t, given)
    return f.reshape(f.narrow(out, 1, s) if extra else out, b, s, -1)


def chunked(x: Value, extra: int, size: int) -> Value:
    """reshape_into_chunks: [batch, chunks, size, heads, …]."""
    x = f.pad(x, 1, extra)
    return f.reshape(x, x.shape[0], -1, size, *x.shape[2:])


def in_chunks(t: Tape, given: list[Value]) -> Value:
    """The products of mamba2_chunk_scan: within each chunk, from chunk to chunk, from their states to the output; what skips them.

    All that has a name stays until the output is there, and goes in the order in which it got its name.
    """
    hidden, _step, decay, keys, queries, skip = given
    given.clear()
    decay = f.permute(decay, 0, 3, 1, 2)
    sums = f.cumsum(decay)
    within = f.exp(segment_sum(t, decay))
    scores = f.einsum("bclhn,bcshn->bclsh", queries, keys)
    scores_masked = f.mul(scores, f.permute(within, 0, 2, 3, 4, 1))
    diagonal = f.einsum("bclsh,bcshp->bclhp", scores_masked, hidden)
    rest = f.exp(f.subtract(f.narrow(sums, -1, 1), sums))
    decayed = f.mul(keys, f.unsqueeze(f.permute(rest, 0, 2, 3, 1), -1))
    states = f.einsum("bclhn,bclhp->bchpn", decayed, hidden)
    previous = t.new((states.shape[0], 1, *states.shape[2:]), states.dtype)  # a name until the function returns
    states = f.cat((previous, states), 1)
    between = f.transpose(f.exp(segment_sum(t, f.pad(f.select(sums, -1), -1, 1))), 1, 3)
    new = f.einsum("bzch,bzhpn->bchpn", between, states)
    states = f.narrow(new, 1, new.shape[1] - 1)
    out = f.exp(sums)
    reached = f.einsum("bclhn,bchpn->bclhp", queries, states)
    off = f.mul(reached, f.unsqueeze(f.permute(out, 0, 2, 3, 1), -1))
    out = f.contiguous(f.add(diagonal, off))
    out = f.add(f.reshape(out, out.shape[0], -1, *out.shape[3:]), skip)
    del previous
    return out


def segment_sum(t: Tape, x: Value) -> Value:
    """segment_sum: sums of every stretch, [..., size] to [..., size, size], -inf above the diagonal."""
    size = x.shape[-1]
    x = f.masked_fill(f.expand(f.unsqueeze(x, -1), *x.shape, size), triangle(t, size))
    return f.masked_fill(f.cumsum(x), triangle(t, size))


def triangle(t: Tape, size: int) -> Value:
    """~tril(ones(size, size))."""
    ones = t.new((size, size), "bool")
    lower = t.new(ones.shape, "bool")
    del ones
    return f.compare(lower)
