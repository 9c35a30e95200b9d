"""Attention of encoders and encoder-decoders that don't go through transformers' common form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.basic import Embedding
from memcalc.blocks.disentangled import RelativeTable
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attend, heads, project, separate
from memcalc.tape.hf.rotary import rotate, rotate_pairs
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Attention, "whisper")
def whisper(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """WhisperAttention.forward: queries are scaled first, and every part is copied head by head (modeling_whisper.py)."""
    read = around.encoder if block.cross and around.encoder else x
    q = f.contiguous(heads(f.scale(run(t, block.q, x, around)), block.heads))
    k = f.contiguous(heads(run(t, block.k, read, around), block.heads))
    v = f.contiguous(heads(run(t, block.v, read, around), block.heads))
    return project(t, block, attend(t, block, q, k, v, around), around)


@rule(Attention, "modernbert")
def modernbert(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """ModernBertAttention.forward: the three parts of one projection taken apart by an axis (modeling_modernbert.py)."""
    b, s = x.shape[:2]
    qkv = f.view(run(t, block.qkv, x, around), b, s, 3, -1, block.head_dim)
    q, k, v = f.unbind(qkv, -3)
    q, k, v = f.transpose(q, 1, 2), f.transpose(k, 1, 2), f.transpose(v, 1, 2)
    tables = around.tables(block.rotary_kind)
    if tables:
        q, k = rotate(block, q, k, tables)
    return project(t, block, attend(t, block, q, k, v, around), around)


@rule(Attention, "gpt2-cross")
def gpt2_cross(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """GPT2Attention.forward over an encoder's states: keys and values are halves of one projection (modeling_gpt2.py)."""
    assert around.encoder is not None  # noqa: S101 - the encoder has run
    q = run(t, block.q, x, around)
    k, v = (heads(part, block.heads) for part in f.chunk(run(t, block.qkv, around.encoder, around), 2))
    return project(t, block, attend(t, block, heads(q, block.heads), k, v, around), around)


@rule(Attention, "mvp")
def mvp(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """MvpAttention.forward: heads folded into the batch (modeling_mvp.py)."""
    read = around.encoder if block.cross and around.encoder else x
    b, s, n = *x.shape[:2], block.heads
    q = f.scale(run(t, block.q, x, around))
    k, v = (heads(run(t, part, read, around), n) for part in (block.k, block.v))
    q, k, v = (f.reshape(part, b * n, -1, block.head_dim) for part in (heads(q, n), k, v))
    weights = f.bmm(f.lower(q), f.lower(f.swap(k)))
    mask = None if block.cross else around.mask(block.window)
    if mask is not None:
        weights = f.view(f.add(f.view(weights, b, n, s, -1), mask), b * n, s, -1)
    weights = f.softmax(weights)
    dropped = f.dropout(weights, block.dropout)
    out = f.bmm(f.lower(dropped), f.lower(v))
    return run(t, block.out, f.reshape(f.transpose(f.view(out, b, n, s, -1), 1, 2), b, s, -1), around)


@rule(Attention, "esm")
def esm(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """EsmSelfAttention.forward: queries are scaled before they are rotated (modeling_esm.py)."""
    q, k, v = separate(t, block, x, around)
    q = f.scale(q)
    tables = around.tables(block.rotary_kind)
    if block.rotary_dim and tables:
        q, k = rotate(block, q, k, tables)
    out = attend(t, block, q, k, v, around)
    del q, k, v
    around.handed.append(out)
    out = project(t, block, out, around)
    around.weights = None  # the layer is handed the output alone
    return out


@rule(Attention, "rembert", "roformer", "luke")
def rembert(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """RemBertSelfAttention, MegatronBertSelfAttention, RoFormerSelfAttention: not through the common form of attention."""
    out = scored(t, block, x, around)
    around.handed.append(out)
    return project(t, block, out, around)


def scored(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Scores that keep a name beside what becomes of them until the module returns (modeling_rembert.py)."""
    q, k, v = separate(t, block, x, around)
    if block.formula == "roformer" and around.rotary:
        q, k = rotated_by_pairs(q, k, around.rotary)
    scores = f.scale(f.matmul(q, f.swap(k)))
    mask = None if block.cross else around.mask(block.window)
    if mask is not None:
        scores = f.add(scores, mask)
    weights = f.softmax(scores)
    weights = f.dropout(weights, block.dropout)
    if block.formula != "luke":  # which hands them on only where they are asked for
        around.weights = around.returned = weights
    out = f.matmul(weights, v)
    out = f.contiguous(f.transpose(out, 1, 2))
    return out  # noqa: RET504 - the name takes the copy before the others go


def rotated_by_pairs(q: Value, k: Value, tables: tuple[Value, Value]) -> tuple[Value, Value]:
    """apply_rotary_position_embeddings: half tables repeated for every pair, in every layer (modeling_roformer.py)."""
    sin, cos = (f.cat((half, half)) for half in tables)
    turned = rotate_pairs(q)
    q = f.add(f.mul(q, cos), f.mul(turned, sin))
    turned_key = rotate_pairs(k)
    k = f.add(f.mul(k, cos), f.mul(turned_key, sin))
    return q, k


@rule(Attention, "mpnet")
def mpnet(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """MPNetSelfAttention.forward: the shared bias is added to the scores in place (modeling_mpnet.py)."""
    q, k, v = separate(t, block, x, around)
    scores = f.scale(f.matmul(q, f.swap(k)))
    if around.bias is not None:
        scores = f.add_(scores, around.bias)
    weights = f.dropout(f.softmax(scores), block.dropout)
    out = f.contiguous(f.transpose(f.matmul(weights, v), 1, 2))
    return project(t, block, out, around)


@rule(RelativeTable)
def relative_table(t: Tape, block: RelativeTable, x: Value, around: Around) -> Value:
    """What all layers read of one table; the main path goes on as it was."""
    table, *norms = block.blocks
    assert isinstance(table, Embedding)  # noqa: S101 - the kind begins with one
    if block.use == "bias":
        around.bias = shared_bias(t, table, x)
    elif block.use == "rotation":
        with t.no_grad():
            half = f.chunk(looked(t, table, x.shape[1]), 2)
        around.rotary = half[0], half[1]
    else:
        around.table = rows(t, table)
        for norm in norms:
            around.table = run(t, norm, around.table, around)
    return x


def rows(t: Tape, table: Embedding) -> Value:
    """The whole table: its weight."""
    path = t.path
    t.path = f"{path}.{table.name}" if path else table.name
    weight = t.weight("weight", (table.rows, table.width))
    t.path = path
    return weight


def looked(t: Tape, table: Embedding, seq: int) -> Value:
    """Its rows at the positions of a sequence: [1, 1, seq, width]."""
    found = f.embedding(t.new((seq,), "int64"), rows(t, table))
    return f.unsqueeze(f.unsqueeze(found, 0), 0)


def shared_bias(t: Tape, table: Embedding, x: Value) -> Value:
    """MPNetEncoder.compute_position_bias: [batch, heads, seq, seq]."""
    batch, seq = x.shape[:2]
    context, memory = t.new((seq,), "int64"), t.new((seq,), "int64")
    distances = t.new((seq, seq), "int64")
    bucket = _buckets(distances)
    values = f.permute(f.embedding(bucket, rows(t, table)), 2, 0, 1)
    values = f.contiguous(f.expand(f.unsqueeze(values, 0), batch, -1, seq, seq))
    del context, memory, distances, bucket
    return values


def _buckets(distances: Value) -> Value:
    """MPNetEncoder.relative_position_bucket: T5's, of distances turned round."""
    turned = f.scale(distances)
    sides = f.shift(f.scale(f.to(f.compare(turned), "int64")))
    turned = f.scale(turned)
    small = f.compare(turned)
    far = f.shift(f.to(f.scale(f.scale(f.scale(f.scale(f.to(turned, "fp32"))))), "int64"))
    far = f.add(far, f.scale(far))
    sides = f.add_(sides, f.add(turned, far))
    del turned, small, far
    return sides


@rule(Attention, "squeezebert")
def squeezebert(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """SqueezeBertSelfAttention.forward: tokens behind the channels, [batch, width, seq] (modeling_squeezebert.py)."""
    b, width, s = x.shape
    cut = (b, block.heads, block.head_dim, s)
    q, k, v = (run(t, part, x, around) for part in (block.q, block.k, block.v))
    read, keys, values = f.permute(f.view(q, *cut), 0, 1, 3, 2), f.view(k, *cut), f.permute(f.view(v, *cut), 0, 1, 3, 2)
    scores = f.matmul(read, keys)
    scores = f.scale(scores)
    mask = around.mask(block.window)
    scores = f.add(scores, mask) if mask is not None else scores
    weights = f.softmax(scores)
    weights = f.dropout(weights, block.dropout)
    out = f.matmul(weights, values)
    out = f.contiguous(f.permute(out, 0, 1, 3, 2))
    return f.view(out, b, width, s)
