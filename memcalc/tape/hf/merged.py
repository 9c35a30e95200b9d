"""T5Gemma 2: attention to the target's own tokens and to the source's at once, and a token of a table of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.multimodal import MarkedEmbedding
from memcalc.tape import functions as f
from memcalc.tape.functions.inplace import put_
from memcalc.tape.hf.attention import attend, headed, heads, project
from memcalc.tape.hf.basic import asking, with_images
from memcalc.tape.hf.rotary import rotate
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Attention, "merged")
def merged(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """T5Gemma2MergedAttention.forward: keys and values of both, by the same projections, side by side."""
    q, k, v = headed(t, block, x, around)
    tables, source = around.tables(block.rotary_kind), around.encoder
    if tables:
        q, k = rotate(block, q, k, tables)
    if source is not None:
        keys, values = (heads(run(t, part, source, around), block.kv_heads) for part in (block.k, block.v))
        keys = run(t, block.k_norm, keys, around)
        k = f.cat((k, keys), 2)
        v = f.cat((v, values), 2)
        del keys, values
    return project(t, block, attend(t, block, q, k, v, around), around)


def merged_masks(t: Tape, windows: dict[int, None], x: Value, around: Around) -> dict[int, Value | None]:
    """T5Gemma2Decoder.forward: the causal mask of each window, joined to one of the source; always made."""
    batch, target = x.shape[:2]
    both = target + (around.encoder.shape[1] if around.encoder else 0)
    dtype = x.dtype if t.setting.attention == "eager" else "bool"
    parts = {window: t.new((1 if dtype == "bool" else batch, 1, target, target), dtype) for window in windows}
    masks: dict[int, Value | None] = {window: t.new((batch, 1, target, both), dtype) for window in windows}
    del parts
    return masks


@rule(MarkedEmbedding)
def marked(t: Tape, block: MarkedEmbedding, x: Value, around: Around) -> Value:
    """T5Gemma2TextScaledWordEmbedding.forward: rows of the tokens that end an image are put in place."""
    weight = t.weight("weight", (block.rows, block.width), f"{block.tied_to}.weight" if block.tied_to else "")
    own = t.weight("eoi_embedding", (block.width,), f"{block.tied_to}.eoi_embedding" if block.tied_to else "")
    out = f.scale(f.embedding(x, weight))
    out = asking(t, put_(out, t.new(x.shape, "bool"), own))
    if around.sight is not None:
        out = with_images(t, out, around.sight(around))
    t.held += [out] if around.holds else []
    return out
