"""Hyper-connections: lanes of the residual stream, mixed around every branch (transformers, modeling_deepseek_v4.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.hyper import HyperConnection, HyperHead, HyperLanes, HyperResidual
from memcalc.tape import functions as f
from memcalc.tape.hf.masks import causal_mask
from memcalc.tape.loops import loop
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

    Tables = tuple[Value, Value]

KINDS = ("main", "compress")  # of rotary tables


@rule(HyperLanes)
def lanes(t: Tape, block: HyperLanes, x: Value, around: Around) -> Value:
    """DeepseekV4Model.forward between the embedding, which is held until it returns, and the layers."""
    b, s, width = x.shape
    around.ready = True
    t.held.append(x)
    if around.positions is None:
        around.positions = f.shift(t.new((s,), "int64"))
    around.masks[0] = causal_mask(t, b, s, x.dtype, block.window, eager=True)
    out = f.contiguous(f.expand(f.unsqueeze(x, 2), b, s, block.lanes, width))
    frequencies(t, block.rotary_dim)
    for kind in KINDS:
        around.ropes[kind] = half_tables(t, 1, s, block.rotary_dim, x.dtype)
    return out


def frequencies(t: Tape, dim: int) -> None:
    """The buffers of a DeepseekV4RotaryEmbedding: of each kind, as they are and as they were first."""
    for number in range(2 * len(KINDS)):
        t.given((dim // 2,), "fp32", f"inv_freq_{number}")


def half_tables(t: Tape, batch: int, seq: int, dim: int, dtype: str) -> Tables:
    """DeepseekV4RotaryEmbedding.forward: cos and sin [batch, seq, dim / 2]."""
    with t.no_grad():
        positions = t.new((batch, seq, 1), "fp32")
        angles = t.new((batch, seq, dim // 2), "fp32")
        del positions
        cos = f.scale(f.scale(angles))
        sin = f.scale(f.scale(angles))
        return f.to(cos, dtype), f.to(sin, dtype)


def unweighted_norm(x: Value) -> Value:
    """DeepseekV4UnweightedRMSNorm.forward: x times the reciprocal root, found in fp32."""
    inverse = f.rsqrt(f.shift(f.mean(f.squared(f.to(x, "fp32")), -1)))
    return f.mul(x, f.to(inverse, x.dtype))


@rule(HyperResidual)
def residual(t: Tape, block: HyperResidual, x: Value, around: Around) -> Value:
    """Half of DeepseekV4DecoderLayer.forward: a branch on the mixed lane, spread over the lanes, which are mixed too."""
    connection = block.connection
    assert isinstance(connection, HyperConnection)  # noqa: S101 - the architecture gives it one
    post, comb, y = connect(t, connection, x)
    for part in block.blocks:
        y = run(t, part, y, around)
    around.summed.append(y)
    spread = f.mul(f.unsqueeze(f.to(post, x.dtype), -1), f.unsqueeze(y, -2))
    return f.add(spread, f.matmul(f.transpose(f.to(comb, x.dtype), -1, -2), x))


def connect(t: Tape, block: HyperConnection, x: Value) -> tuple[Value, Value, Value]:
    """DeepseekV4HyperConnection.forward: (post, comb, the mixed lane) of lanes [batch, seq, lanes, width]."""
    (b, s), n = x.shape[:2], block.lanes
    mixes = (2 + n) * n
    with inside(t, block):
        fn, base, factors = (t.weight(*pair) for pair in (
            ("fn", (mixes, n * block.width)), ("base", (mixes,)), ("scale", (3,))))  # fmt: skip
        flat = unweighted_norm(f.to(f.view(x, b, s, -1), "fp32"))
        flat = f.linear(flat, f.to(fn, "fp32"))
        pre, post, comb = f.split(flat, (n, n, n * n))
        biases, scales = f.split(base, (n, n, n * n)), f.unbind(factors)
        pre = f.shift(f.sigmoid(f.add(f.mul(pre, scales[0]), biases[0])))
        post = f.scale(f.sigmoid(f.add(f.mul(post, scales[1]), biases[1])))
        comb = f.add(f.mul(f.view(comb, b, s, n, n), scales[2]), f.view(biases[2], n, n))
        comb = f.shift(f.softmax(comb))
        comb = loop(t, block.sinkhorn - 1, balanced, normalised(comb, -2))
        return post, comb, collapsed(pre, x)


def balanced(comb: Value) -> Value:
    """One round of Sinkhorn and Knopp: rows and columns made to sum to 1."""
    return normalised(normalised(comb, -1), -2)


def normalised(comb: Value, axis: int) -> Value:
    """comb / (comb.sum(axis, keepdim=True) + eps)."""
    return f.div(comb, f.shift(f.total(comb, axis, keep=True)))


def collapsed(weights: Value, x: Value) -> Value:
    """The weighted sum of the lanes, in the dtype of both, cast back."""
    return f.to(f.total(f.mul(f.unsqueeze(weights, -1), x), 2), x.dtype)


@rule(HyperHead)
def head(t: Tape, block: HyperHead, x: Value, around: Around) -> Value:
    """DeepseekV4HyperHead.forward."""
    (b, s), n = x.shape[:2], block.lanes
    fn, base, factor = (t.weight(*pair) for pair in (
        ("hc_fn", (n, n * block.width)), ("hc_base", (n,)), ("hc_scale", (1,))))  # fmt: skip
    flat = unweighted_norm(f.to(f.view(x, b, s, -1), "fp32"))
    mixes = f.linear(flat, f.to(fn, "fp32"))
    pre = f.shift(f.sigmoid(f.add(f.mul(mixes, f.to(factor, "fp32")), f.to(base, "fp32"))))
    return collapsed(pre, x)
