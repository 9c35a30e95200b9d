"""LiLT: two streams that share their scores (modeling_lilt.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.layout import BoxStates, TwoStreams
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import heads
from memcalc.tape.hf.layout import table
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(BoxStates)
def box_states(t: Tape, block: BoxStates, x: Value, around: Around) -> Value:
    """LiltLayoutEmbeddings.forward; the words' states go on as they are."""
    assert block.places is not None  # noqa: S101 - it has all its parts
    wide = run(t, block.boxes, t.new(x.shape[:2], "int64"), around)
    states = run(t, block.project, wide, around)
    del wide
    placed = f.embedding(t.new(x.shape[:2], "int64"), table(t, block.places))
    states = f.dropout(run(t, block.norm, f.add(states, placed), around), block.dropout)
    around.states = states
    t.held.append(states)
    return x


@rule(TwoStreams)
def two_streams(t: Tape, block: TwoStreams, x: Value, around: Around) -> Value:
    """LiltLayer.forward."""
    boxes = around.states
    assert boxes is not None  # noqa: S101 - made before the layers
    contexts = attended(t, block, (x, boxes), around)
    words = joined(t, block, 0, contexts[0], x, around)
    sides = joined(t, block, 1, contexts[1], boxes, around)
    del contexts
    out = run(t, block.feeds[0], words, around)
    around.states = run(t, block.feeds[1], sides, around)
    return out


def attended(t: Tape, block: TwoStreams, states: tuple[Value, Value], around: Around) -> tuple[Value, Value]:
    """LiltSelfAttention.forward."""
    with inside(t, block.mixers[0]):
        side = parts(t, block.mixers[1], states[1], around)
        text = parts(t, block.mixers[0], states[0], around)
    raw = f.matmul(text[0], f.swap(text[1]))
    layout = f.matmul(side[0], f.swap(side[1]))
    own, other = f.scale(raw), f.scale(layout)
    raw, layout = f.add(own, other), f.add(other, own)
    mask = around.mask(0)
    if mask is not None:
        layout = f.add(layout, mask)
    sides = f.dropout(f.softmax(layout), block.mixers[1].dropout)
    second = folded(f.matmul(sides, side[2]))
    if mask is not None:
        raw = f.add(raw, mask)
    weights = f.dropout(f.softmax(raw), block.mixers[0].dropout)
    first = folded(f.matmul(weights, text[2]))
    del own, other, raw, layout, sides, weights
    return first, second


def parts(t: Tape, mixer: Attention, x: Value, around: Around) -> tuple[Value, ...]:
    """Queries, keys and values of one stream."""
    return tuple(heads(run(t, part, x, around), mixer.heads) for part in (mixer.q, mixer.k, mixer.v))


def folded(x: Value) -> Value:
    """[batch, heads, seq, dim] copied to [batch, seq, heads * dim]."""
    x = f.contiguous(f.permute(x, 0, 2, 1, 3))
    return f.view(x, *x.shape[:2], -1)


def joined(t: Tape, block: TwoStreams, which: int, context: Value, x: Value, around: Around) -> Value:
    """LiltSelfOutput.forward."""
    with inside(t, block.mixers[which]):
        out = f.dropout(run(t, block.mixers[which].out, context, around), block.dropout)
    return run(t, block.norms[which], f.add(out, x), around)
