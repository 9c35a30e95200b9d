"""ProphetNet: a decoder of several streams (modeling_prophetnet.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.prophetnet import StreamAttention, StreamLogits, Streams, TakeStreams
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import heads
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcalc.blocks.basic import Embedding
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Attention, "prophetnet")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """ProphetNetAttention.forward."""
    read = around.encoder if block.cross and around.encoder else x
    q = f.scale(run(t, block.q, x, around))
    k, v = (heads(run(t, part, read, around), block.heads) for part in (block.k, block.v))
    q = heads(q, block.heads)
    weights = f.softmax(f.einsum("bsij,bsjk->bsik", q, f.swap(k)))
    dropped = f.dropout(weights, block.dropout)
    out = f.einsum("bsij,bsjk->bsik", dropped, v)
    out = run(t, block.out, f.reshape(f.transpose(out, 1, 2), *x.shape), around)
    return f.dropout(out, block.out_dropout)


@rule(Streams)
def streams(t: Tape, block: Streams, x: Value, around: Around) -> Value:
    """ProphetNetDecoder.forward before its first norm; what is embedded has names until it returns."""
    words, places, ahead = (found(t, table) for table in (block.words, block.places, block.ahead))
    rows, (batch, seq) = places.shape[0], x.shape
    embedded = f.embedding(x, words)
    positions = f.scale(f.shift(f.mul(f.scale(t.new((batch, seq), "int64")), t.new((batch, seq), "int64"))))
    placed = f.embedding(positions, places)
    around.distances, around.table = buffered(t, batch, seq, rows - 1)
    later = f.embedding(f.shift(positions), places)
    hidden = f.add(embedded, placed)
    others = [f.add(f.select(ahead, 0), later) for _ in range(ahead.shape[0])]
    masks(t, block, (batch, seq, rows), hidden.dtype, around)
    around.ready = True
    t.held += (embedded, positions, placed, later, *others)
    return f.cat((hidden, *others), 1)


def found(t: Tape, table: Embedding | None) -> Value:
    """The weight of a table."""
    assert table is not None  # noqa: S101 - it has all three
    with inside(t, table):
        return t.weight("weight", (table.rows, table.width), table.tied_to)


def buffered(t: Tape, batch: int, seq: int, rows: int) -> tuple[Value, Value]:
    """compute_buffered_relative_buckets: of all positions there are, then of those of the sequence."""
    near, far = (f.scale(t.new((1, rows, columns), "int64")) for columns in (rows, 2 * rows))
    main, ahead = buckets(near), buckets(far)
    del near, far
    mine = f.repeat(t.new((1, seq, seq), "int32"), batch)
    other = f.repeat(t.new((1, seq, 2 * seq), "int32"), batch)
    del main, ahead
    return mine, other


def buckets(distances: Value) -> Value:
    """compute_relative_buckets, in one direction."""
    distances = f.maximum(f.scale(distances), f.scale(distances))
    small = f.compare(distances)
    far = f.shift(f.scale(f.scale(f.scale(f.scale(f.to(distances, "fp32"))))))
    far = f.to(f.maximum(far, f.scale(f.scale(far))), "int32")
    out = f.shift(f.where(small, f.to(distances, "int32"), far))
    del small
    return out


def masks(t: Tape, block: Streams, sizes: tuple[int, int, int], dtype: str, around: Around) -> None:
    """prepare_attention_mask, prepare_predict_attention_mask: views for every sequence and head."""
    (batch, seq, rows), count = sizes, block.ahead.rows if block.ahead else 1
    main = f.scale(t.new((seq, seq), dtype))
    around.masks[0] = f.expand(f.unsqueeze(f.unsqueeze(main, 0), 0), batch, block.heads, seq, seq)
    halves = [t.new((count, rows, rows), dtype) for _ in range(2)]
    whole = f.cat(halves, 2)
    halves.clear()
    ahead = t.new((count, seq, 2 * seq), dtype)
    del whole
    around.padding = f.expand(f.unsqueeze(f.unsqueeze(ahead, 0), 0), batch, block.heads, count, seq, 2 * seq)


@rule(StreamAttention, "prophetnet-streams")
def stream_attention(t: Tape, block: StreamAttention, x: Value, around: Around) -> Value:
    """ProphetNetNgramSelfAttention.forward: what it names lasts until it returns, the weights as long as the layer."""
    q, k, v = (run(t, part, x, around) for part in (block.q, block.k, block.v))
    q, k, v = (f.contiguous(heads(part, block.heads)) for part in (f.scale(q), k, v))
    hidden = f.chunk(x, 1 + block.streams, 1)
    parts = [f.chunk(part, 1 + block.streams, 2) for part in (q, k, v)]
    names: list[Value] = []
    main = main_stream(t, block, hidden[0], [part[0] for part in parts], names, around)
    others = other_streams(t, block, hidden[1:], parts, names, around)
    out = f.view(f.cat((main, others), 1), *x.shape)
    return f.dropout(out, block.out_dropout)


def main_stream(
    t: Tape, block: StreamAttention, x: Value, parts: Sequence[Value], names: list[Value], around: Around
) -> Value:
    """The stream that reads the target."""
    q, k, v = parts
    scores = f.einsum("bntc,bncs->bnts", q, f.swap(k))
    bias = biased(t, block, x, (0, 3, 1, 2), around.distances, around)
    scores = f.add(scores, f.view(bias, *scores.shape))
    mask = around.mask(0)
    assert mask is not None  # noqa: S101 - the decoder has made it
    scores = f.add(scores, mask)
    weights = f.dropout(f.to(f.softmax(scores, "fp32"), scores.dtype), block.dropout)
    out = f.einsum("bntc,bncs->bnts", weights, v)
    out = f.reshape(f.transpose(out, 1, 2), x.shape[0], 1, *x.shape[1:])
    names += (scores, bias)
    around.summed.append(weights)
    return run(t, block.out, out, around)


def other_streams(
    t: Tape,
    block: StreamAttention,
    hidden: Sequence[Value],
    parts: Sequence[tuple[Value, ...]],
    names: list[Value],
    around: Around,
) -> Value:
    """The streams that look ahead, each at the target's stream and itself."""
    (_, *queries), (key, *keys), (value, *values) = parts
    (b, s, width), n = hidden[0].shape, block.streams
    q = f.stack(queries, 1)
    k = f.stack([f.cat((key, other), 2) for other in keys], 1)
    x = f.stack(hidden, 2)
    v = f.cat([f.unsqueeze(f.cat((value, other), 2), 2) for other in values], 2)
    scores = f.einsum("bnhtc,bnhsc->bnhts", q, k)
    bias = biased(t, block, f.transpose(x, 1, 2), (0, 2, 1, 4, 3), around.table, around)
    scores = f.add(scores, f.view(bias, *scores.shape))
    assert around.padding is not None  # noqa: S101 - the decoder has made it
    mask = f.to(f.permute(around.padding, 0, 2, 1, 3, 4), scores.dtype)
    scores = f.add(scores, mask)
    weights = f.dropout(f.to(f.softmax(scores, "fp32"), scores.dtype), block.dropout)
    out = f.einsum("bnhts,bnhsc->bnhtc", weights, f.transpose(v, 1, 2))
    out = f.reshape(f.transpose(out, 2, 3), b, n, s, width)
    names += (q, k, x, v, scores, bias, mask)
    around.summed.append(weights)
    return run(t, block.out, out, around)


def biased(
    t: Tape, block: StreamAttention, x: Value, order: tuple[int, ...], which: Value | None, around: Around
) -> Value:
    """get_…_relative_pos_embeddings: a number for each bucket from the hidden states, picked by distance."""
    assert which is not None  # noqa: S101 - the decoder has made it
    made = run(t, block.bias_table, x, around)
    rows = made.shape[-1] // block.heads
    made = f.permute(f.view(made, *x.shape[:-1], rows, block.heads), *order)
    if len(order) == 5:
        made = f.reshape(made, -1, rows)
    where = f.repeat(which, block.heads, 1)
    if len(order) == 5 and block.streams > 1:
        where = f.repeat(where, block.streams)
    where = f.to(f.view(where, -1, where.shape[-1]), "int64")
    return f.take_along(f.reshape(made, -1, rows), where, where.shape)


@rule(TakeStreams)
def take_streams(_: Tape, block: TakeStreams, x: Value, around: Around) -> Value:
    """The end of ProphetNetDecoder.forward: both parts are outputs."""
    seq = x.shape[1] // (1 + block.count)
    main, others = f.narrow(x, 1, seq), f.narrow(x, 1, seq * block.count)
    around.outputs.append(main if block.ahead else others)
    return others if block.ahead else main


@rule(StreamLogits)
def stream_logits(_: Tape, block: StreamLogits, x: Value, around: Around) -> Value:
    """ProphetNetForConditionalGeneration.forward and _compute_loss: the first stream's copied, all put in another order."""
    logits = f.view(x, x.shape[0], block.count, -1, x.shape[-1])
    first = f.contiguous(f.select(logits, 1))
    around.outputs += (x, first)
    return f.contiguous(f.transpose(logits, 0, 1))
