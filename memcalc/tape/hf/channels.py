"""Sound as several tokens at each place (modeling_dia.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.channels import ChannelEmbedding, ChannelLogits
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attention
from memcalc.tape.hf.basic import asking
from memcalc.tape.rules import Around, rule

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


rule(Attention, "dia")(attention)  # its masks are told apart: made_for (surroundings.py)


@rule(ChannelEmbedding)
def channel_embedding(t: Tape, block: ChannelEmbedding, x: Value, _: Around) -> Value:
    """DiaMultiChannelEmbedding.forward: codes plus the row that their codebook begins at."""
    batch, places, channels = x.shape
    rows = f.view(f.shift(x), batch, places * channels)
    weight = t.weight("weight", (block.rows, block.width))
    found = f.view(asking(t, f.embedding(rows, weight)), batch, places, channels, block.width)
    return f.total(found, 2)


@rule(ChannelLogits)
def channel_logits(_: Tape, block: ChannelLogits, x: Value, __: Around) -> Value:
    """The end of DiaForConditionalGeneration.forward's logits."""
    batch, places, wide = x.shape
    apart = f.contiguous(f.transpose(f.view(x, batch, places, block.channels, -1), 1, 2))
    return f.view(apart, batch * block.channels, places, wide // block.channels)
