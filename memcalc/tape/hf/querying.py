"""Images that a text attends to, or that learned queries read for it (modeling_blip.py, modeling_blip_2.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.attention import Attention
from memcalc.blocks.querying import (
    AttendedImages,
    InstructedLayer,
    InstructedStart,
    LeadingImages,
    QueriedImages,
    ShiftedLogits,
)
from memcalc.tape import functions as f
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.basic import Embedding, Raw
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(QueriedImages)
def queried_images(t: Tape, block: QueriedImages, x: Value, around: Around) -> Value:
    """Blip2ForConditionalGeneration.get_image_features, ahead of the embeddings; all that it makes is an output."""
    s = t.setting
    if not s.images:
        return x
    tower, queries, former, project = block.blocks
    inner, outer, t.held = Around(), t.held, []
    inner.asks = block.asks
    pixels = t.given((x.shape[0] * s.images, *block.image), s.inputs or s.weights)
    states = run(t, tower, f.to(pixels, s.weights), inner)
    reading = Around()
    reading.ready, reading.encoder, reading.tokens = True, states, x
    raw = cast("Raw", queries)
    tokens = f.expand(t.weight(raw.name, raw.shape), states.shape[0], *raw.shape[1:])
    read = run(t, former, tokens, reading)
    made = run(t, project, f.narrow(read, 1, raw.shape[1]) if read.shape[1] > raw.shape[1] else read, around)
    t.held = outer
    t.outputs += states, read, made
    around.named += states, read, made
    around.sight = lambda _: made
    return x


@rule(InstructedStart)
def instructed_start(t: Tape, block: InstructedStart, x: Value, around: Around) -> Value:
    """InstructBlipQFormerEmbeddings.forward; the instruction is what of the text is not the image's tokens."""
    assert around.tokens  # noqa: S101 - whoever asks has been given some
    words, places = cast("Embedding", block.words), cast("Embedding", block.places)
    count = min(max(around.tokens.shape[1] - x.shape[1], 1), places.rows)
    embedded = _looked_up(t, words, t.given((x.shape[0], count), "int64"))
    embedded = f.add(embedded, _looked_up(t, places, t.new((1, count), "int64")))
    out = run(t, block.norm, f.cat((x, embedded), 1), around)
    return run(t, block.dropout, out, around) if block.dropout else out


def _looked_up(t: Tape, table: Embedding, index: Value) -> Value:
    with inside(t, table):
        return f.embedding(index, t.weight("weight", (table.rows, table.width)))


@rule(InstructedLayer)
def instructed_layer(t: Tape, block: InstructedLayer, x: Value, around: Around) -> Value:
    """InstructBlipQFormerLayer.forward, whose names last to its end."""
    out = run(t, block.mixer, x, around)
    asked = f.narrow(out, 1, block.queries)
    asked = run(t, block.crossing, asked, around) if block.crossing else asked
    shown = run(t, block.query, asked, around)
    told = run(t, block.text, f.narrow(out, 1, out.shape[1] - block.queries), around)
    made = f.cat((shown, told), 1)
    del out, asked, shown, told
    return made


def seen(t: Tape, block: AttendedImages | LeadingImages, images: int) -> Value:
    """What the tower, the first part, makes of so many images; what it holds meanwhile goes with it."""
    s, outer, t.held = t.setting, t.held, []
    pixels = t.given((images, *block.image), s.inputs or s.weights)
    states = run(t, block.blocks[0], f.to(pixels, s.weights), Around())
    t.held = outer
    return states


@rule(AttendedImages)
def attended_images(t: Tape, block: AttendedImages, x: Value, around: Around) -> Value:
    """BlipForConditionalGeneration.forward, ahead of its decoder."""
    if not t.setting.images:
        return x
    states = seen(t, block, x.shape[0])
    t.outputs.append(states)
    around.encoder, around.follows = states, True
    return x


@rule(ShiftedLogits)
def shifted_logits(t: Tape, block: ShiftedLogits, x: Value, around: Around) -> Value:
    """BlipTextLMHeadModel.forward; GitForCausalLM's leaves out the image's tokens."""
    t.outputs.append(x)
    ahead = block.ahead if t.setting.images else 0
    return f.contiguous(f.narrow(x, 1, x.shape[1] - 1 - ahead))


@rule(Attention, "blip")
def blip_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """BlipAttention.forward: never fused; scores and probabilities keep their names to its end."""
    b, s, width = x.shape
    qkv = f.reshape(run(t, block.qkv, x, around), b, s, 3, block.heads, block.head_dim)
    qkv = f.permute(qkv, 2, 0, 3, 1, 4)
    q, k, v = (f.select(qkv, 0) for _ in range(3))
    scores = f.scale(f.matmul(q, f.swap(k)))
    weights = f.dropout(f.softmax(scores), block.dropout)
    context = f.reshape(f.permute(f.matmul(weights, v), 0, 2, 1, 3), b, s, width)
    out = run(t, block.out, context, around)
    del q, k, v, qkv, scores, weights, context  # names of the function
    return out


@rule(LeadingImages)
def leading_images(t: Tape, block: LeadingImages, x: Value, around: Around) -> Value:
    """GitModel.forward, behind the embeddings."""
    if not t.setting.images:
        return x
    states = seen(t, block, x.shape[0])
    made = f.repeat(run(t, block.blocks[1], states, around), 1)
    around.named += states, made
    return f.cat((made, x), 1)
