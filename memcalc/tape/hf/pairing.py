"""A text and an image's patches in one row (modeling_vilt.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.querying import PairedImages
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.basic import Embedding, Raw
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(PairedImages)
def paired_images(t: Tape, block: PairedImages, x: Value, around: Around) -> Value:
    """ViltEmbeddings.forward."""
    text, _token, _cut, _table, kinds, *drop = block.blocks
    words = run(t, text, x, around)
    seen = patches(t, block, x.shape[0], around)
    for part in drop:
        seen = run(t, part, seen, around)
    with inside(t, kinds):
        table = cast("Embedding", kinds)
        vectors = t.weight("weight", (table.rows, table.width))
        words = f.add(words, f.embedding(t.new(words.shape[:2], "int64"), vectors))
        seen = f.add(seen, f.embedding(t.new(seen.shape[:2], "int64"), vectors))
    return f.cat((words, seen), 1)


def patches(t: Tape, block: PairedImages, batch: int, around: Around) -> Value:
    """ViltEmbeddings.visual_embed: patches and their positions, each image's by itself, picked in an order of their own."""
    _, token, cut, table, *_ = block.blocks
    s, raws = t.setting, (cast("Raw", token), cast("Raw", table))
    pixels = t.given((batch, *block.image), s.inputs or s.weights)
    t.given((batch, *block.image[1:]), "int64")  # which of them fill up
    x = run(t, cut, f.to(pixels, s.weights), around)
    width, size = x.shape[1], x.shape[2:]
    first, places = (t.weight(f".{t.path}.{raw.name}", raw.shape) for raw in raws)
    picture = f.reshape(f.transpose(f.narrow(places, 1, places.shape[1] - 1), 1, 2), 1, width, block.side, -1)
    where = f.cat([f.clone(maps.interpolate(picture, size)) for _ in range(batch)], 0)
    picked = []
    rows = t.new((batch * size[0] * size[1], 2), "int64")
    for part in (x, where):
        tokens = f.transpose(f.reshape(part, batch, width, -1), 1, 2)
        picked.append(f.reshape(f.index(tokens, rows, (rows.shape[0], width)), *tokens.shape))
    x = f.cat((f.expand(first, batch, -1, -1), picked[0]), 1)
    where = f.cat((f.expand(f.unsqueeze(f.select(places, 1), 1), batch, -1, -1), picked[1]), 1)
    return f.add(x, where)
