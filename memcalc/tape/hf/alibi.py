"""Linear biases on the scores (ALiBi, Press et al. 2022), as the models that have them make them before their layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.hf.masks import built
from memcalc.tape.hf.rotary import rotary_tables

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.tape.recorder import Tape
    from memcalc.tape.rules import Around
    from memcalc.tape.values import Value


def surround(t: Tape, block: Attention, x: Value, around: Around) -> None:
    """What BloomModel, MptModel and FalconModel hand to their layers instead of, or beside, the usual mask."""
    batch, seq = x.shape[:2]
    around.slopes = True
    match block.formula:
        case "mpt":
            around.bias = t.new((block.heads, 1, t.context or seq), "fp32")  # whatever the config says
            around.masks[0] = f.to(built(t, batch, seq, seq, x.dtype, eager=True), "bool")
        case "falcon":
            falcon(t, block, x, around)
        case _:
            around.bias = t.new((batch * block.heads, 1, seq), x.dtype)


def falcon(t: Tape, block: Attention, x: Value, around: Around) -> None:
    """FalconModel.forward: the mask is always made; with biases it holds them too, for every head."""
    batch, seq = x.shape[:2]
    mask = built(t, batch, seq, seq, x.dtype, eager=t.setting.attention == "eager")
    if block.alibi:
        around.bias = t.new((batch, block.heads, 1, seq), x.dtype)
        mask = t.new((batch, block.heads, seq, seq), x.dtype)
        around.rotary = rotary_tables(t, 1, seq, block.head_dim, x.dtype)  # made and handed on, if never read
    around.masks[0] = mask
