"""Masked image modelling: patches hidden behind a learned token, and painted again (modeling_vit.py)."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, cast

from memcalc.blocks.painting import MaskedPatches, PixelDecoder
from memcalc.tape import functions as f
from memcalc.tape.hf.programs import body, measured, split
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.model import Model
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def paint(t: Tape, model: Model) -> tuple[Value, Value]:
    """ViTForMaskedImageModeling.forward: the mean difference of the pixels that were masked."""
    base, heads = split(model.body)
    t.layers = model.depth
    pixels = measured(t, (t.setting.batch, *model.image))
    x, _outputs = body(t, base, pixels)
    decoder = cast("PixelDecoder", heads[0])
    made = run(t, decoder, x, Around())
    masked = t.new((t.setting.batch, *(size // decoder.stride for size in made.shape[2:])), "bool")
    mask = f.repeat_interleave(f.repeat_interleave(masked, decoder.stride, 1), decoder.stride, 2)
    wide = f.upper(pixels), f.upper(made)  # what autocast makes for l1_loss is there until that returns
    loss = f.absolute(f.subtract(*wide))
    del wide
    loss = f.total(f.mul(loss, f.unsqueeze(mask, 1)), *range(4))
    loss = f.scale(f.div(loss, f.shift(t.new((), "fp32"))))
    return loss, made


@rule(MaskedPatches)
def masked_patches(t: Tape, block: MaskedPatches, x: Value, around: Around) -> Value:
    """ViTEmbeddings.forward: embeddings * (1 - mask) + mask_tokens * mask."""
    tokens = f.expand(t.weight("", block.shape), *x.shape)
    given = t.given(x.shape[:2], "bool", ".masked")
    mask = f.unsqueeze(f.to(given, tokens.dtype), -1)
    return f.add(f.mul(x, f.shift(mask)), f.mul(tokens, mask))


@rule(PixelDecoder)
def pixel_decoder(t: Tape, block: PixelDecoder, x: Value, around: Around) -> Value:
    """The tokens of patches as a map, a convolution, nn.PixelShuffle."""
    batch, tokens, width = x.shape
    count = tokens - block.prefix - block.suffix
    x = f.narrow(x, 1, count) if count < tokens else x
    side = isqrt(count)
    x = f.reshape(f.permute(x, 0, 2, 1), batch, width, side, count // side)
    for part in block.blocks:
        x = run(t, part, x, around)
    step, channels = block.stride, x.shape[1] // block.stride**2
    x = f.permute(f.reshape(x, batch, channels, step, step, *x.shape[2:]), 0, 1, 4, 2, 5, 3)
    return f.reshape(x, batch, channels, *(size * step for size in (side, count // side)))
