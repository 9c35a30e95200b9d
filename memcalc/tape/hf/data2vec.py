"""data2vec's image encoder: BEiT's biases, made within the attention that adds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.attention import Attention
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attend, project, separate
from memcalc.tape.hf.windows import beit_bias
from memcalc.tape.rules import Around, rule

if TYPE_CHECKING:
    from memcalc.blocks.image import BiasedLayer
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Attention, "data2vec-vision")
def biased_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Data2VecVisionSdpaSelfAttention.forward: biases of its own join those of all layers, then its output's projection."""
    q, k, v = separate(t, block, x, around)
    before, bias = around.masks, beit_bias(t, cast("BiasedLayer", block.before[0]), x)
    shared = before.get(0)
    around.masks = {0: bias if shared is None else f.add_(bias, shared)}
    del bias
    out = attend(t, block, q, k, v, around)
    around.masks = before
    del q, k, v
    around.handed.append(out)
    return project(t, block, out, around)
