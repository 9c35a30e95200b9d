"""Images that learned queries read for a language model (modeling_blip_2.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.querying import QueriedImages
from memcalc.tape import functions as f
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.basic import Raw
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
    reading.ready, reading.encoder = True, states
    raw = cast("Raw", queries)
    tokens = f.expand(t.weight(raw.name, raw.shape), states.shape[0], *raw.shape[1:])
    read = run(t, former, tokens, reading)
    made = run(t, project, read, around)
    t.held = outer
    t.outputs += states, read, made
    around.named += states, read, made
    around.sight = lambda _: made
    return x
