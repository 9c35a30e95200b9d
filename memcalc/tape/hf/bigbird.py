"""BigBird's attention to blocks: the first and the last, neighbours, and random ones (modeling_big_bird.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from memcalc.blocks.attention import Attention
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import separate
from memcalc.tape.hf.attention_encoders import rembert
from memcalc.tape.hf.masks import too_short
from memcalc.tape.rules import Around, gone, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


class Sizes(NamedTuple):
    """Sequences, heads, tokens, blocks of `size` tokens, and how many of them are random."""

    batch: int
    heads: int
    seq: int
    blocks: int
    size: int
    random: int


class Blocked(NamedTuple):
    """Queries, keys and values, whole and cut into blocks, random blocks gathered, and the mask of those."""

    whole: tuple[Value, Value, Value]
    blocks: tuple[Value, Value, Value]
    gathered: tuple[Value, Value]
    mask: Value


@rule(Attention, "big-bird")
def block_sparse(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """BigBirdBlockSparseAttention.forward, or that of all tokens where a sequence is too short for it."""
    if too_short(block, x):
        return full(t, replace(block, window=0, formula=""), x, around)
    s = Sizes(x.shape[0], block.heads, x.shape[1], x.shape[1] // block.window, block.window, block.group)
    names: list[Value] = []
    out = attended(t, s, block, x, names, around)
    _masks = names[:3]  # names of the function around it (BigBirdAttention.forward)
    gone(names)
    out = f.view(f.contiguous(out), s.batch, s.seq, -1)
    around.handed.append(out)
    return f.dropout(run(t, block.out, out, around), block.out_dropout)


@rule(Attention, "big-bird-full")
def full(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """BigBirdSelfAttention.forward; BigBirdLayer.forward keeps the weights it is handed to itself."""
    out = rembert(t, block, x, around)
    around.returned = None
    return out


def attended(t: Tape, s: Sizes, block: Attention, x: Value, names: list[Value], around: Around) -> Value:
    """bigbird_block_sparse_attention: five parts, and the weights of all pairs put together for the caller."""
    band, mask = around.mask(0), t.new((s.batch, 1, s.seq, 1), x.dtype)
    assert band is not None  # noqa: S101 - made before the layers
    names += (f.to(band, x.dtype), mask, t.new((s.batch, 1, 1, s.seq), x.dtype))
    parts = blocked(t, s, separate(t, block, x, around), names)
    first = whole_row(t, s, parts, names)
    second = edge(t, s, parts, names)
    middle = inner(t, s, parts, names)
    others = edge(t, s, parts, names), whole_row(t, s, parts, names)
    out = f.cat([f.unsqueeze(first, 2), f.unsqueeze(second, 2), middle, *(f.unsqueeze(part, 2) for part in others)], 2)
    del first, second, middle, others
    out = f.transpose(f.mul(f.view(out, s.batch, s.heads, s.seq, -1), mask), 1, 2)
    around.weights = t.new((s.batch, s.heads, s.seq, s.seq), out.dtype)
    return out


def blocked(t: Tape, s: Sizes, whole: tuple[Value, Value, Value], names: list[Value]) -> Blocked:
    """Random blocks of keys and values, and their mask in fp32."""
    b, h, _, n, size, r = s
    where = t.new((b, h, n - 2, r), "int64")
    mask = t.new((b, h, n - 2, size, r * size), "fp32")
    q, k, v = (f.view(part, b, h, n, size, -1) for part in whole)
    index = f.expand(f.reshape(where, b, h, (n - 2) * r, 1, 1), b, h, (n - 2) * r, size, k.shape[-1])
    keys, values = (f.view(f.take_along(part, index, index.shape), b, h, n - 2, r * size, -1) for part in (k, v))
    names += (*whole, where, mask, keys, values)
    return Blocked(whole, (q, k, v), (keys, values), mask)


def whole_row(t: Tape, s: Sizes, parts: Blocked, names: list[Value]) -> Value:
    """The first and the last block attend to everything."""
    scores = f.scale(f.matmul(f.select(parts.blocks[0], 2), f.swap(parts.whole[1])))
    mask = f.scale(f.scale(names[2]))
    scores = f.add_(scores, mask)
    del mask
    weights = f.softmax(scores)
    names += (scores, weights)
    return f.matmul(weights, parts.whole[2])


def edge(t: Tape, s: Sizes, parts: Blocked, names: list[Value]) -> Value:
    """The second and the last but one: neighbours, ends and random blocks side by side."""
    b, h, _, _, size, r = s
    keys, values = (
        f.cat([*(f.select(whole, 2) for _ in range(4)), f.select(random, 2)], 2)
        for whole, random in zip(parts.blocks[1:], parts.gathered, strict=True)
    )
    scores = f.matmul(f.select(parts.blocks[0], 2), f.swap(keys))
    padding = t.new((b, 1, 1, (4 + r) * size), names[0].dtype)
    random = t.new((b, h, size, (4 + r) * size), "fp32")
    scores = f.scale(scores)
    scores = f.add_(scores, f.scale(f.scale(f.scale(random))))
    weights = f.softmax(scores)
    names += (keys, values, scores, padding, random, weights)
    return f.matmul(weights, values)


def inner(t: Tape, s: Sizes, parts: Blocked, names: list[Value]) -> Value:
    """All other blocks: neighbours by three shifted copies, random blocks, the first and the last."""
    b, _, _, n, size, r = s
    q = f.narrow(parts.blocks[0], 2, n - 4)
    keys, values = (f.cat([f.narrow(part, 2, n - 4) for _ in range(3)], 3) for part in parts.blocks[1:])
    near = f.scale(f.matmul(q, f.swap(keys)))
    some = f.scale(f.matmul(q, f.swap(f.narrow(parts.gathered[0], 2, n - 4))))
    ends = [f.scale(f.einsum("bhlqd,bhkd->bhlqk", q, f.select(parts.blocks[1], 2))) for _ in range(2)]
    near = f.add_(near, f.scale(f.scale(names[0])))
    some = f.add_(some, f.scale(f.scale(f.narrow(parts.mask, 2, n - 4))))
    scores = f.cat([ends[0], near, some, ends[1]])
    weights = f.softmax(scores)
    out = f.matmul(f.narrow(weights, -1, 3 * size), values)
    out = f.add_(out, f.matmul(f.narrow(weights, -1, r * size), f.narrow(parts.gathered[1], 2, n - 4)))
    for _ in range(2):
        last = f.narrow(weights, -1, size)
        out = f.add_(out, f.einsum("bhlqk,bhkd->bhlqd", last, f.select(parts.blocks[2], 2)))
    names += (keys, values, near, some, *ends, scores, weights)
    return out
