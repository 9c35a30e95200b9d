"""MobileBERT, module by module (modeling_mobilebert.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.basic import Norm
from memcalc.blocks.mobilebert import Bottlenecked, SplitUnembed, Trigrams
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attend, heads
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Norm, "no_norm")
def no_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """NoNorm.forward: times a weight, plus a bias."""
    return f.add(f.mul(x, t.weight("weight", (block.width,))), t.weight("bias", (block.width,)))


@rule(Trigrams)
def trigrams(_: Tape, block: Trigrams, x: Value, around: Around) -> Value:
    """MobileBertEmbeddings.forward: the sequence shifted to both sides, beside itself."""
    after = f.pad(f.narrow(x, 1, x.shape[1] - 1), 1, 1)
    before = f.pad(f.narrow(x, 1, x.shape[1] - 1), 1, 1)
    return f.cat((after, x, before), 2)


@rule(Bottlenecked)
def layer(t: Tape, block: Bottlenecked, x: Value, around: Around) -> Value:
    """MobileBertLayer.forward."""
    narrow = run(t, block.narrow, x, around)
    values = narrow if block.values_narrow else x
    queries = run(t, block.shared, x, around) if block.shared else values
    mixed = attended(t, block, queries, values, narrow, around)
    fed = run(t, block.feeds, mixed, around)
    out = run(t, block.last, fed, around)
    del fed
    return widened(t, block, out, x, around)


def attended(t: Tape, block: Bottlenecked, queries: Value, values: Value, narrow: Value, around: Around) -> Value:
    """MobileBertAttention.forward."""
    mixer = block.mixer
    assert mixer  # noqa: S101 - every layer has one
    with inside(t, mixer):
        q, k = (heads(run(t, part, queries, around), mixer.heads) for part in (mixer.q, mixer.k))
        v = heads(run(t, mixer.v, values, around), mixer.heads)
        context = attend(t, mixer, q, k, v, around)
        context = f.reshape(context, *context.shape[:2], -1)
        del q, k, v
        out = run(t, mixer.out, context, around)
    summed = f.add(out, narrow)
    return run(t, block.mixed, summed, around)


def widened(t: Tape, block: Bottlenecked, out: Value, x: Value, around: Around) -> Value:
    """OutputBottleneck.forward."""
    out = f.dropout(run(t, block.widen, out, around), block.dropout)
    return run(t, block.widened, f.add(out, x), around)


@rule(SplitUnembed)
def split_unembed(t: Tape, block: SplitUnembed, x: Value, _: Around) -> Value:
    """MobileBertLMPredictionHead.forward: x times both weights put together, plus a bias in place."""
    table = t.weight("decoder.weight", (block.outputs, block.narrow), block.tied_to)
    rest = t.weight("dense.weight", (block.inputs - block.narrow, block.outputs))
    whole = f.cat((f.swap(table), rest), 0)
    out = f.mm(x, whole)
    return f.add_(out, t.weight("decoder.bias", (block.outputs,), block.bias_tied_to))
