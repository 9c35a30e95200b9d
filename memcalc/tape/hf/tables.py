"""Table Transformer: DETR's older form, whose positions are made for every map (modeling_table_transformer.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.detection import TableDetector
from memcalc.tape import functions as f
from memcalc.tape.hf.boxes import backbone
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(TableDetector)
def table_detector(t: Tape, block: TableDetector, x: Value, around: Around) -> Value:
    """TableTransformerModel.forward."""
    batch, path = x.shape[0], t.path
    found, kept, masks = backbone(t, block, x)
    places = [sinusoids(t, one, block.width) for one in kept]
    projected = run(t, block.project, found, around)
    tokens = f.transpose(f.reshape(projected, batch, block.width, -1), 1, 2)
    where = f.transpose(f.reshape(places[-1], batch, block.width, -1), 1, 2)
    encoder, decoder = Around(), Around()
    encoder.ready = decoder.ready = True
    encoder.rotary = where, where
    states = run(t, block.encoder, f.dropout(tokens, block.dropout), encoder)
    t.path = path
    table = t.weight("query_position_embeddings.weight", (block.queries, block.width))
    asked = f.repeat(f.unsqueeze(table, 0), batch)
    decoder.rotary, decoder.encoder = (asked, where), states
    y = run(t, block.decoder, t.new(asked.shape, asked.dtype), decoder)
    y = run(t, block.norm, y, around)
    t.outputs.append(states)
    del kept, masks, places, projected, tokens  # names of the function
    return y


def sinusoids(t: Tape, found: Value, width: int) -> Value:
    """TableTransformerSinePositionEmbedding.forward, cast to the map's dtype."""
    batch, _, rows, columns = found.shape
    counts = [t.new((batch, rows, columns), "fp32") for _ in "yx"]
    turned = [t.new((batch, rows, columns, width // 2), "fp32") for _ in "xy"]
    for axis in (0, 1):
        halves = [t.new((batch, rows, columns, width // 4), "fp32") for _ in "sc"]
        turned[axis] = t.new((batch, rows, columns, width // 2), "fp32")
        halves.clear()
    both = f.permute(t.new((batch, rows, columns, width), "fp32"), 0, 3, 1, 2)
    del counts, turned
    return f.to(both, found.dtype)


@rule(Attention, "table-transformer")
def batched_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """TableTransformerAttention.forward: positions join queries and keys; heads are folded into the batch."""
    assert around.rotary  # noqa: S101 - the detector has made them
    own, others = around.rotary
    batch, width = x.shape[0], x.shape[-1]
    hidden = f.add(x, own)
    states = around.encoder if block.cross and around.encoder else x
    keyed = f.add(states, others) if states is not x else hidden
    q = f.scale(run(t, block.q, hidden, around))
    k = _folded(run(t, block.k, keyed, around), block.heads)
    v = _folded(run(t, block.v, states, around), block.heads)
    q = _folded(q, block.heads)
    weights = f.bmm(f.lower(q), f.lower(f.swap(k)))
    weights = f.softmax(weights)
    probabilities = f.dropout(weights, block.dropout)
    out = f.bmm(f.lower(probabilities), f.lower(v))
    out = f.transpose(f.view(out, batch, block.heads, -1, block.head_dim), 1, 2)
    out = f.reshape(out, batch, -1, width)
    return run(t, block.out, out, around)


def _folded(x: Value, heads: int) -> Value:
    """[batch, tokens, heads * dim] as [batch * heads, tokens, dim]: a copy."""
    batch, tokens, width = x.shape
    cut = f.contiguous(f.transpose(f.view(x, batch, tokens, heads, width // heads), 1, 2))
    return f.view(cut, batch * heads, tokens, width // heads)
