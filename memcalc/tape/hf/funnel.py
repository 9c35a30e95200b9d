"""Funnel-Transformer: relative attention over ever fewer tokens (modeling_funnel.py)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from memcalc.blocks.relative import Pooled, RelativeAttention, Unpooled
from memcalc.tape import functions as f
from memcalc.tape.functions.maps import average_pool, max_pool
from memcalc.tape.hf.layers import under_name
from memcalc.tape.hf.xlnet import own
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


class Given:
    """What FunnelAttentionStructure hands to every layer: of queries' and keys' positions, segments, padding, the first token."""

    def __init__(self, t: Tape, block: Pooled, x: Value) -> None:
        (batch, seq, width), dtype = x.shape, x.dtype
        self.block, self.width, self.dtype, self.tape = block, width, dtype, t
        rows = seq if block.factorized else 4 * seq
        halves = [f.dropout(t.new((rows, width // 2), dtype), block.dropout) for _ in range(2)]
        count = 4 if block.factorized else 1
        self.tables = [f.cat(halves) for _ in range(count)]
        self.segments = t.new((batch, seq, seq), "bool")
        self.mask = t.new((batch, seq), dtype)
        self.first = f.pad_both(t.new((seq - 1, seq - 1), dtype), (0, 1), (seq, seq)) if block.apart else None
        self.places: dict[tuple[int, int], Value] = {}

    def distances(self, keys: int, shift: int) -> Value:
        """The sinusoids of all distances that may occur; those of each stack are made before the first."""
        found = self.places.get((keys, shift))
        if found is None:
            found = self.places[keys, shift] = self.tape.new((2 * keys, self.width), self.dtype)
        return found

    def planned(self, stacks: int, seq: int) -> None:
        """get_position_embeds: of every stack, with all keys and with the fewer ones, out of a table that then goes."""
        if self.block.factorized:
            return
        for index in range(stacks):
            if index:
                self.distances(seq, 2)
                seq = half(seq)
            self.distances(seq, 1)
        self.tables = []

    def pooled(self, axis: int) -> None:
        """stride_pool: the first token's row once more, then every other."""
        both = self.tables if not self.block.queries_only else self.tables[2 * axis : 2 * axis + 2]
        if self.block.factorized and (self.block.queries_only or not axis):
            self.tables[2 * axis : 2 * axis + len(both)] = [self.halved(table, 0) for table in both]
        self.segments = self.halved(self.segments, 1 + axis)
        if self.first is not None:
            self.first = self.halved(self.first, axis)

    def halved(self, x: Value, axis: int) -> Value:
        """A look at every other of the rows, with another before them where the first stands apart."""
        x = f.cat((f.narrow(x, axis, 1), x), axis) if self.block.apart else x
        return f.narrow(x, axis, half(x.shape[axis] - self.block.apart))


def half(seq: int) -> int:
    """Tokens after pooling."""
    return -(-seq // 2)


@rule(Pooled)
def pooled(t: Tape, block: Pooled, x: Value, around: Around) -> Value:
    """FunnelEncoder.forward: what each stack put out is kept for the decoder."""
    around.ready = True
    around.scene = given = Given(t, block, x)
    given.planned(len(block.blocks), x.shape[1])
    around.keeps = block.kept
    t.held += [x] if block.kept else []
    fewer: Value | None = None  # pooled_hidden, a name of the function's
    for index, stack in enumerate(block.blocks):
        if index:
            keys, x = x, halved_tokens(block, x)
            fewer = x
            for axis in (0,) if block.queries_only else (0, 1):
                given.pooled(axis)
            around.original = keys if block.queries_only else None
            around.after = {0: partial(later, given)} if block.queries_only else {}
            del keys
        hidden = [x]
        del x
        x = under_name(t, stack, hidden, around)  # type: ignore[arg-type]
        around.kept = x if block.kept and not index else around.kept
    del fewer
    around.scene, around.keeps, around.after = None, False, {}
    return x


def later(given: Given, x: Value) -> Value:
    """post_attention_pooling: the keys of what the first layer of a stack was given."""
    given.pooled(1)
    return x


def halved_tokens(block: Pooled, x: Value) -> Value:
    """pool_tensor: the first token apart, then the mean or the larger of every two."""
    if block.apart:
        rest = f.narrow(x, 1, x.shape[1] - 1) if block.cut else x
        x = f.cat((f.narrow(x, 1, 1), rest), 1)
    x, size = f.unsqueeze(x, 1), (half(x.shape[1]), x.shape[2])
    return f.squeeze(max_pool(x, size) if block.pooling == "max" else average_pool(x, size), 1)


@rule(Unpooled)
def unpooled(t: Tape, block: Unpooled, x: Value, around: Around) -> Value:
    """FunnelDecoder.forward."""
    first = around.kept
    assert first is not None  # noqa: S101 - the encoder has kept it
    spread = upsampled(block, x, first.shape[1])
    x = f.add(spread, first)
    around.scene = Given(t, block, x)
    around.scene.planned(block.times.bit_length(), x.shape[1])  # tables of the encoder's stacks, though it has one
    hidden = [x]
    del x
    x = under_name(t, block.blocks[0], hidden, around)  # type: ignore[arg-type]  # it is a stack
    around.scene = around.kept = None
    del spread
    return x


def upsampled(block: Unpooled, x: Value, length: int) -> Value:
    """upsample: every token as often as it was halved, the first apart."""
    if block.times == 1:
        return x
    if not block.apart:
        return f.narrow(f.repeat_interleave(x, block.times, 1), 1, length)
    first = f.narrow(x, 1, 1)
    x = f.repeat_interleave(f.narrow(x, 1, x.shape[1] - 1), block.times, 1)
    x = f.pad(x, 1, block.times - 1) if block.cut else x
    return f.cat((first, f.narrow(x, 1, length - 1)), 1)


@rule(RelativeAttention, "funnel")
def attention(t: Tape, block: RelativeAttention, x: Value, around: Around) -> Value:
    """FunnelRelMultiheadAttention.forward: all it names lasts until the norm behind it has run."""
    read, around.original = around.original or x, None
    given, shape = around.scene, (block.heads, block.head_dim)
    q, k, v = (
        f.view(run(t, part, source, around), *source.shape[:2], *shape)
        for part, source in ((block.q, x), (block.k, read), (block.v, read))
    )
    q = f.scale(q)
    content = f.einsum("bind,bjnd->bnij", f.add(q, f.scale(t.weight("r_w_bias", shape))), k)
    places = positions(t, block, q, read.shape[1], given)
    segments = token_types(t, block, q, given)
    scores = f.add(f.add(content, places), segments)
    dtype = scores.dtype
    scores = f.to(scores, "fp32")
    scores = f.subtract(scores, f.scale(f.shift(t.new((x.shape[0], 1, 1, read.shape[1]), "fp32"))))
    weights = f.dropout(f.softmax(scores, dtype), block.dropout)
    out = f.einsum("bnij,bjnd->bind", weights, v)
    around.handed += (q, k, v, content, places, segments, scores, weights, out)
    return run(t, block.out, f.reshape(out, *x.shape[:2], -1), around)


def positions(t: Tape, block: RelativeAttention, q: Value, keys: int, given: Given) -> Value:
    """relative_positional_attention."""
    shape = (block.heads, block.head_dim)
    biased = f.add(q, f.scale(t.weight("r_r_bias", shape)))
    kernel = own(t, block, "r_kernel")
    if block.factorized:
        wide = f.einsum("binh,dnh->bind", biased, kernel)
        scores = factored(wide, given)
    else:
        shift = 1 if q.shape[1] == keys else 2
        places = f.einsum("td,dnh->tnh", given.distances(keys, shift), kernel)
        scores = shifted(f.einsum("binh,tnh->bnit", biased, places), keys, shift)
    return scores if given.first is None else f.mul_(scores, given.first)


def factored(wide: Value, given: Given) -> Value:
    """The product of sines and cosines of both positions."""
    phi, pi, psi, omega = given.tables
    parts = [f.mul(wide, f.unsqueeze(table, 1)) for table in (phi, pi)]
    first = f.einsum("bind,jd->bnij", parts[0], psi)
    return f.add(first, f.einsum("bind,jd->bnij", parts[1], omega))


def shifted(x: Value, keys: int, shift: int) -> Value:
    """_relative_shift_gather."""
    b, n, rows, columns = x.shape
    x = f.narrow(f.reshape(x, b, n, columns, rows), 2, columns - shift)
    return f.narrow(f.reshape(x, b, n, rows, columns - shift), -1, keys)


def token_types(t: Tape, block: RelativeAttention, q: Value, given: Given) -> Value:
    """relative_token_type_attention: a score for the same segment, and one for another."""
    biased = f.add(q, f.scale(t.weight("r_s_bias", (block.heads, block.head_dim))))
    scores = f.einsum("bind,snd->bnis", biased, own(t, block, "seg_embed"))
    b, rows, keys = given.segments.shape
    same = f.expand(f.unsqueeze(given.segments, 1), b, block.heads, rows, keys)
    differs, equal = f.split(scores, (1, 1), -1)
    out = f.where(same, f.expand(equal, *same.shape), f.expand(differs, *same.shape))
    return out if given.first is None else f.mul_(out, given.first)
