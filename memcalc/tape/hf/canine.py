"""CANINE (modeling_canine.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.canine import Characters, HashedEmbeddings, Molecules, Rejoined
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import heads
from memcalc.tape.hf.basic import asking
from memcalc.tape.hf.roc_bert import read
from memcalc.tape.recorder import RESIDENT
from memcalc.tape.rules import Around, rule, run
from memcalc.tape.values import Value

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape


@rule(Characters)
def characters(t: Tape, block: Characters, x: Value, around: Around) -> Value:
    """CanineModel.forward: what it makes has names to its end, a mask of characters against characters too."""
    batch, seq = x.shape
    ones = t.new((batch, seq), "fp32")
    embedded = run(t, block.embeddings, x, around)
    each = t.new((batch, seq, seq), "fp32")
    around.masks[0] = each  # which a checkpoint keeps as well
    own = run(t, block.before, embedded, around)
    around.masks = {}
    short = run(t, block.down, own, around)
    deep = run(t, block.deep, short, around)
    pooled = run(t, block.pooler, deep, around)
    again = repeated(deep, seq, block.rate)
    joined = f.cat((own, again), -1)
    out = run(t, block.up, joined, around)
    out = run(t, block.last, out, around)
    del ones, embedded, each, own, short, again, joined
    around.outputs.append(out if block.pooled else pooled)
    return pooled if block.pooled else out


def repeated(molecules: Value, seq: int, rate: int) -> Value:
    """_repeat_molecules: every molecule but the first `rate` times, the last for the characters that are left."""
    first = f.repeat_interleave(f.narrow(molecules, 1, molecules.shape[1] - 1), rate, 1)
    rest = f.repeat_interleave(f.narrow(molecules, 1, 1), seq % rate + rate, 1)
    return f.cat((first, rest), 1)


@rule(HashedEmbeddings)
def hashed(t: Tape, block: HashedEmbeddings, x: Value, around: Around) -> Value:
    """CanineEmbeddings.forward: the hashes of all tables before the first is read; positions are added in place."""
    types = t.new(x.shape, "int64")
    hashes = [f.scale(f.scale(f.shift(x))) for _ in block.hashed]
    slices = [read(t, table, buckets) for table, buckets in zip(block.hashed, hashes, strict=True)]
    out = asking(t, f.cat(slices, -1))
    del hashes, slices
    kinds = read(t, block.types, types)
    summed = f.add(out, kinds)
    places = read(t, block.places, t.given((1, x.shape[1]), "int64"))
    summed = f.add_(summed, places)
    return run(t, block.dropout, run(t, block.norm, summed, around), around)


@rule(Molecules)
def molecules(t: Tape, block: Molecules, x: Value, around: Around) -> Value:
    """CharactersToMolecules.forward: the last molecule makes way for the first character."""
    made = f.transpose(run(t, block.conv, f.transpose(x, 1, 2), around), 1, 2)
    made = run(t, block.activation, made, around)
    out = f.cat((f.narrow(x, 1, 1), f.narrow(made, 1, made.shape[1] - 1)), 1)
    return run(t, block.norm, out, around)


@rule(Rejoined)
def rejoined(t: Tape, block: Rejoined, x: Value, around: Around) -> Value:
    """ConvProjection.forward."""
    padded = f.pad(f.transpose(x, 1, 2), 2, block.size - 1)
    out = f.transpose(run(t, block.conv, padded, around), 1, 2)
    del padded
    out = run(t, block.activation, out, around)
    return run(t, block.dropout, run(t, block.norm, out, around), around)


@rule(Attention, "canine")
def canine(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """CanineAttention.forward where every token sees every token."""
    out = scored(t, block, (x, x), around, None)
    around.handed.append(out)
    return run(t, block.out, out, around)


@rule(Attention, "canine-local")
def local(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """CanineAttention.forward where chunks see themselves; their outputs are joined, and have names as long as it runs."""
    seq, width = x.shape[1], block.window
    sizes = [min(width, seq - start) for start in range(0, seq, width)]
    chunks = [scored(t, block, (f.narrow(x, 1, size), f.narrow(x, 1, size)), around, size) for size in sizes]
    out = f.cat(chunks, 1)
    around.handed += [*chunks, out]
    del chunks
    return run(t, block.out, out, around)


def scored(t: Tape, block: Attention, pair: tuple[Value, Value], around: Around, size: int | None) -> Value:
    """CanineSelfAttention.forward, from a tensor to another; a chunk of `size` is given a mask, of which it makes one to add."""
    x, seen = pair
    k, v, q = (
        heads(run(t, part, y, around), block.heads) for part, y in ((block.k, seen), (block.v, seen), (block.q, x))
    )
    scores = f.scale(f.matmul(q, f.swap(k)))
    mask = None
    if size is not None:
        cut = Value(t, RESIDENT, (x.shape[0], 1, size, size), "fp32")  # a view of that of all characters
        mask = f.scale(f.shift(cut))
        scores = f.add(scores, f.to(mask, scores.dtype))
    weights = f.dropout(f.softmax(scores), block.dropout)
    out = f.contiguous(f.permute(f.matmul(weights, v), 0, 2, 1, 3))
    del mask, scores
    return f.view(out, *x.shape[:2], -1)
