"""PatchTST (modeling_patchtst.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.series import JoinChannels, SeriesPatches
from memcalc.tape import functions as f
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(SeriesPatches)
def series_patches(t: Tape, block: SeriesPatches, x: Value, around: Around) -> Value:
    """PatchTSTModel.forward before its encoder: a scaler, patches, masks, all of them outputs; and their embeddings."""
    batch, steps, channels = x.shape
    observed = t.new(x.shape, x.dtype)
    if block.scaled:
        x = f.scale(f.scale(x))
    count = (max(steps, block.length) - block.length) // block.stride + 1
    patches = t.new((batch, channels, count, block.length), x.dtype)
    t.held += (observed, patches, x)
    if block.masked:
        mask = f.repeat(t.new((batch, channels, count, 1), "fp32"), block.length, 3)
        patches = f.masked_fill(patches, f.compare(mask))
        t.held.append(mask)
    out = run(t, block.embed, f.view(patches, batch * channels, count, block.length), around)
    t.held.append(out)
    return out


@rule(JoinChannels)
def join_channels(_: Tape, block: JoinChannels, x: Value, around: Around) -> Value:
    """nn.Flatten(start_dim=1) of every channel's pooled patches."""
    return f.reshape(x, x.shape[0] // block.channels, -1)
