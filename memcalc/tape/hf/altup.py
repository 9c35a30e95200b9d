"""Gemma 3n's text: several streams, predicted, worked on by way of one of them, and corrected (modeling_gemma3n.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.altup import AltUp, Streams
from memcalc.blocks.mlp import Mlp
from memcalc.tape import functions as f
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.surroundings import prepare
from memcalc.tape.rules import Around, inside, rule, run
from memcalc.tape.values import Value

if TYPE_CHECKING:
    from memcalc.blocks.base import Sequence, Stack
    from memcalc.tape.recorder import Tape


@rule(Streams)
def streams(t: Tape, block: Streams, x: Value, around: Around) -> Value:
    """Gemma3nTextModel.forward from the embeddings to the norm."""
    into, layers, out_of = (cast("Stack", part) for part in (block.into, block.layers, block.out_of))
    hidden = f.stack(_each(t, into, [x] * block.streams, x.dtype, around))
    wide = Value(t, x.storage, x.shape, hidden.dtype, x.strides, x.node)  # as tables are
    prepare(t, layers, wide, around)
    del wide
    hidden = run(t, layers, hidden, around)
    parts = _each(t, out_of, [f.select(hidden, 0) for _ in range(block.streams)], x.dtype, around)
    hidden = f.stack(parts)
    out = f.mean(hidden, 0, keep=False)
    t.held += parts
    return out


def _each(t: Tape, projections: Stack, given: list[Value], dtype: str, around: Around) -> list[Value]:
    """The first as it is, the others through a projection each, as large as the first is at every token."""
    first, *others = given
    size = f.square_root(f.mean(f.square(first), -1))
    made = [first]
    for number, (layer, x) in enumerate(zip(projections.layers, others, strict=True)):
        with inside(t, projections):
            path = t.path
            t.path = t.owner = f"{path}.{number}"
            y = f.to(run(t, layer, x, around), dtype)
            t.path = path
        own = f.mean(f.square(y), -1)
        own = f.square_root(f.clamp(own))
        made.append(f.div(f.mul(y, size), own))
    return made


@rule(AltUp)
def altup(t: Tape, block: AltUp, x: Value, around: Around) -> Value:
    """Gemma3nTextDecoderLayer.forward; x is [streams, batch, seq, width]."""
    attended, _, fed = cast("Sequence", block.inner).blocks
    norm, laurel, attention, normed = attended.parts()
    predictions = _predicted(t, block, x, around)
    active = f.select(predictions, 0)
    read = run(t, norm, active, around)
    low = run(t, laurel, read, around)
    out = run(t, normed, run(t, attention, read, around), around)
    gated = f.add(active, out)
    joined = f.scale(f.add(gated, low))
    before, feed, after = fed.parts()
    given = run(t, before, joined, around)
    made = run(t, feed, given, around)
    made_normed = run(t, after, made, around)
    whole = f.add(joined, made_normed)
    corrected = _corrected(t, block, predictions, whole, around)
    first = f.clone(f.select(corrected, 0))
    if block.scaled:
        with inside(t, cast("Sequence", block.altup)):
            first = f.mul(first, t.weight("correct_output_scale", first.shape[-1:]))
    first = run(t, block.after, first, around)
    rest = f.narrow(corrected, 0, block.streams - 1)
    return f.assign(f.assign(corrected, f.add_(rest, first)), rest)


def _modalities(t: Tape, block: AltUp, x: Value, around: Around) -> Value:
    """compute_router_modalities."""
    norm, router, *_ = cast("Sequence", block.altup).blocks
    read = f.scale(run(t, norm, x, around))
    return f.to(f.tanh(f.to(run(t, router, read, around), "fp32")), x.dtype)


def _predicted(t: Tape, block: AltUp, x: Value, around: Around) -> Value:
    """Gemma3nTextAltUp.predict."""
    n, (_, b, s, _) = block.streams, x.shape
    with inside(t, cast("Sequence", block.altup)):
        modalities = _modalities(t, block, f.select(x, 0), around)
        mixing = run(t, cast("Sequence", block.altup).blocks[2], modalities, around)
    mixing = f.permute(f.reshape(mixing, b, s, n, n), 0, 1, 3, 2)
    out = f.permute(f.matmul(f.permute(x, 1, 2, 3, 0), mixing), 3, 0, 1, 2)
    out = f.add_(out, x)
    return f.to(f.contiguous(out), x.dtype)


def _corrected(t: Tape, block: AltUp, predictions: Value, active: Value, around: Around) -> Value:
    """Gemma3nTextAltUp.correct; its coefficients are clamped."""
    n = block.streams
    with inside(t, cast("Sequence", block.altup)):
        modalities = _modalities(t, block, active, around)
        path = t.path
        t.path = f"{path}.correction_coefs"
        weight = f.clamp(t.weight("weight", (n, n)))
        t.path = path
    innovation = f.subtract(active, f.select(predictions, 0))
    innovation = f.repeat(f.unsqueeze(innovation, 0), n, 0)
    mixing = f.shift(f.linear(modalities, weight))
    mixing = f.unsqueeze(f.permute(mixing, 2, 0, 1), -1)
    corrected = f.mul(innovation, mixing)
    corrected = f.add_(corrected, predictions)
    return f.to(f.contiguous(corrected), active.dtype)


@rule(Mlp, "gaussian")
def gaussian(t: Tape, block: Mlp, x: Value, around: Around) -> Value:
    """Gemma3nTextMLP.forward where few values of the gate are let through: those far above their mean."""
    gate = run(t, block.gate, x, around)
    deviation = f.square_root(f.variance(gate))
    gate = f.relu(f.subtract(gate, f.add(f.mean(gate, -1), f.scale(deviation))))
    activated = activate(block.activation, gate)
    up = run(t, block.up, x, around)
    return run(t, block.down, f.mul(activated, up), around)
