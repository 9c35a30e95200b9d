"""The prior of unCLIP: a row of text and vectors under a mask for every head (diffusers, prior_transformer.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.prior import LastToken, PriorRow
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import heads
from memcalc.tape.hf.dit import text
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(PriorRow)
def prior_row(t: Tape, block: PriorRow, x: Value, around: Around) -> Value:
    """PriorTransformer.forward up to its layers."""
    assert block.positions  # noqa: S101 - it has some
    batch, time = x.shape[0], around.scene.vector
    vector = t.given((batch, block.width), t.setting.weights, ".proj_embedding")
    for part in block.vector:
        vector = run(t, part, vector, around)
    words = run(t, block.words, text(around), around)
    around.encoder = None
    x = run(t, block.into, x, around)
    places = f.to(t.weight(block.positions.name, block.positions.shape), x.dtype)
    parts = [words, *(f.unsqueeze(part, 1) for part in (vector, time, x))]
    if block.last:
        parts.append(f.expand(f.to(t.weight(block.last.name, block.last.shape), x.dtype), batch, -1, -1))
    row = f.add(f.cat(parts, 1), places)
    around.named += *parts, places
    parts.clear()
    around.scene.mask = causal(t, block, row)
    return row


def causal(t: Tape, block: PriorRow, row: Value) -> Value:
    """(attention_mask[:, None, :] + causal_attention_mask).repeat_interleave(heads): [batch, heads, tokens, tokens]."""
    batch, tokens = row.shape[:2]
    t.given((batch, block.count), "bool", ".attention_mask")
    later = t.given((1, tokens, tokens), t.setting.weights, "causal_attention_mask")
    padding = t.new((batch, 1, tokens), row.dtype)
    seen = f.to(f.add(padding, later), row.dtype)
    del padding
    return f.reshape(f.repeat_interleave(seen, block.heads, 0), batch, block.heads, tokens, tokens)


@rule(LastToken)
def last_token(_: Tape, block: LastToken, x: Value, __: Around) -> Value:
    """hidden_states[:, -1], or hidden_states[:, additional_embeddings_len:]."""
    last = f.narrow(x, 1, 1)
    return last if block.kept else f.reshape(last, x.shape[0], -1)


@rule(Attention, "prior")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """AttnProcessor2_0 with a mask, which it only looks at in another shape."""
    q, k, v = (heads(run(t, part, x, around), block.heads) for part in (block.q, block.k, block.v) if part)
    out = f.transpose(f.attention(q, k, v, around.scene.mask), 1, 2)
    out = f.to(f.reshape(out, *out.shape[:2], -1), q.dtype)
    out = run(t, block.out, out, around)
    return f.scale(f.dropout(out, block.out_dropout))
