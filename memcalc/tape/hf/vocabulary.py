"""OWL-ViT, OWLv2: boxes of all patches, and how near each is to the texts that are asked for (modeling_owlvit.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from memcalc.blocks.vocabulary import HiddenTable
from memcalc.tape import functions as f
from memcalc.tape.hf.programs import measured
from memcalc.tape.rules import Around, gone, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.blocks.vocabulary import BothTowers, OpenDetector, TextClasses
    from memcalc.model import Model
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


class Seen(NamedTuple):
    """OwlViTOutput: every image's last hidden state, every text's unit vector, and what the heads don't read."""

    images: Value
    texts: Value
    rest: tuple[Value, ...]


def look(t: Tape, model: Model) -> tuple[Value, Value]:
    """OwlViTForObjectDetection.forward; the class has no loss, here the mean of all that it finds."""
    block = cast("OpenDetector", model.body)
    t.layers = model.depth
    found = _found(t, block, measured(t, (t.setting.batch, *model.image)))
    first, *others = found[:3] if block.objects else found[:2]
    loss = f.mean(first, *range(len(first.shape)), keep=False)
    for one in others:
        loss = f.add(loss, f.mean(one, *range(len(one.shape)), keep=False))
    return loss, found[0]


def _found(t: Tape, block: OpenDetector, pixels: Value) -> tuple[Value, ...]:
    """(logits, boxes, of patches that are objects too, and what else is put out)."""
    towers, around = cast("BothTowers", block.towers), Around()
    ids = t.given((t.setting.batch * towers.queries, t.setting.seq), "int64")
    with inside(t, towers):
        seen = _both(t, towers, pixels, ids)
        states = run(t, towers.pooled, seen.images, around)
    batch, tokens, width = states.shape
    first = f.expand(f.narrow(states, 1, 1), batch, tokens - 1, width)
    patches = f.mul(f.narrow(states, 1, tokens - 1), first)
    patches = run(t, block.norm, patches, around)
    del states, first
    texts = f.reshape(seen.texts, batch, towers.queries, -1)
    known = t.new((batch, towers.queries), "bool")
    with inside(t, cast("Block", block.classes)):
        logits, projected = _classes(t, cast("TextClasses", block.classes), patches, texts, known)
    objects = [f.select(run(t, block.objects, patches.detach(), around), 2)] if block.objects else []
    boxes = run(t, block.boxes, patches, around)
    boxes = f.add_(boxes, t.given((tokens - 1, 4), "fp32", ".box_bias"))
    boxes = f.sigmoid(boxes)
    return logits, boxes, *objects, projected, patches, *seen.rest


def _both(t: Tape, block: BothTowers, pixels: Value, ids: Value) -> Seen:
    """OwlViTModel.forward."""
    last = run(t, block.vision, pixels, Around())
    gone(t.held)
    pooled = run(t, block.pooled, f.select(last, 1), Around())
    read, words = _read(t, cast("Block", block.text), ids)
    texts = run(t, block.read, read, Around())
    images = run(t, block.seen, pooled, Around())
    images = _unit(images)
    unit = _unit(texts)
    scale = f.exp(t.weight("logit_scale", ()))
    cosines = f.mul(f.matmul(unit, f.swap(images)), scale)
    return Seen(last, unit, (pooled, words, read, images, cosines))


def _read(t: Tape, block: Block, ids: Value) -> tuple[Value, Value]:
    """OwlViTTextTransformer.forward: (the state of the last token, all states)."""
    around, x = Around(), ids
    *parts, end = block.parts()
    with inside(t, block):
        for part in parts:
            x = run(t, part, x, around)
        pooled = run(t, end, x, around)
    gone(t.held)
    return pooled, x


def _unit(x: Value) -> Value:
    """x / torch.linalg.norm(x, ord=2, dim=-1, keepdim=True)."""
    return f.div(x, f.vector_norm(x, len(x.shape) - 1))


def _near_unit(x: Value) -> Value:
    """x / (torch.linalg.norm(x, dim=-1, keepdim=True) + 1e-6)."""
    return f.div(x, f.shift(f.vector_norm(x, len(x.shape) - 1)))


def _classes(t: Tape, block: TextClasses, x: Value, texts: Value, known: Value) -> tuple[Value, Value]:
    """OwlViTClassPredictionHead.forward: (logits, the patches' vectors)."""
    around = Around()
    patches = _near_unit(run(t, block.project, x, around))
    texts = _near_unit(texts)
    logits = f.einsum("bpd,bqd->bpq", patches, texts)
    moved = run(t, block.shift, x, around)
    scale = run(t, block.scale, x, around)
    scale = f.shift(f.silu(scale))  # elu: saves its input too
    logits = f.mul(f.add(logits, moved), scale)
    asked = f.compare(f.unsqueeze(known, -2))
    logits = f.where(asked, t.new((), logits.dtype), logits)
    return f.to(logits, "fp32"), patches


@rule(HiddenTable)
def hidden_table(t: Tape, block: HiddenTable, x: Value, around: Around) -> Value:
    """nn.Embedding without the hook of enable_input_require_grads."""
    return f.embedding(x, t.weight("weight", (block.rows, block.width)))
