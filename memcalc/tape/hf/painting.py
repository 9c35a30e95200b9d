"""Masked image modelling: patches hidden behind a learned token, and painted again (modeling_vit.py)."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, cast

from memcalc.blocks.painting import MaskedPatches, PatchPainter, PixelDecoder, VisiblePatches
from memcalc.tape import functions as f
from memcalc.tape.hf.programs import body, measured, split
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.blocks.basic import Raw
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


@rule(VisiblePatches)
def visible_patches(t: Tape, block: VisiblePatches, x: Value, around: Around) -> Value:
    """ViTMAEEmbeddings.forward; the mask and the order of the patches are outputs of the model."""
    cut, places, first = block.blocks
    x = run(t, cut, x, around)
    batch, tokens, width = x.shape
    table = f.expand(raw(t, places), 1, tokens + 1, width)
    x = f.add(x, f.narrow(table, 1, tokens))
    kept = int(tokens * (1 - block.hidden))
    _noise, _shuffled, order = t.new((batch, tokens), "fp32"), *(t.new((batch, tokens), "int64") for _ in range(2))
    x = f.take_along(x, t.new((batch, kept, width), "int64"), (batch, kept, width))
    around.outputs += t.new((batch, tokens), "fp32"), order
    token = f.add(raw(t, first), f.narrow(table, 1, 1))
    return f.cat((f.expand(token, batch, 1, width), x), 1)


def raw(t: Tape, block: Block) -> Value:
    """A bare parameter of the module that runs."""
    return t.weight(block.name, cast("Raw", block).shape)


@rule(PatchPainter)
def patch_painter(t: Tape, block: PatchPainter, x: Value, around: Around) -> Value:
    """ViTMAEDecoder.forward."""
    embed, token, places, layers, *last = block.blocks
    y = run(t, embed, x, around)
    (batch, seen, width), tokens = y.shape, around.outputs[1].shape[1]
    masks = f.clone(f.expand(raw(t, token), batch, tokens + 1 - seen, width))
    whole = f.cat((f.narrow(y, 1, seen - 1), masks), 1)
    whole = f.take_along(whole, t.new((batch, tokens, width), "int64"), (batch, tokens, width))
    y = f.cat((f.narrow(y, 1, 1), whole), 1)
    y = f.add(y, raw(t, places))
    around.ready = True
    y = run(t, layers, y, around)
    for part in last:
        y = run(t, part, y, around)
    del masks, whole  # names of the function until it returns
    return f.narrow(y, 1, tokens)


def repaint(t: Tape, model: Model) -> tuple[Value, Value]:
    """ViTMAEForPreTraining.forward: the mean square difference of the patches that were hidden."""
    encoder, decoder = model.body.parts()
    t.layers = model.depth
    pixels = measured(t, (t.setting.batch, *model.image))
    around = Around()
    x, around.outputs = body(t, (encoder,), pixels)
    made = run(t, decoder, x, around)
    target = t.new(made.shape, pixels.dtype)
    apart = f.subtract(made, target)
    wide = f.upper(apart)  # there, as what it was made of, until the power is
    loss = f.power(wide)
    del apart, wide
    loss = f.mean(loss, -1, keep=False)
    loss = f.div(f.total(f.mul(loss, around.outputs[0]), 0, 1), t.new((), "fp32"))
    return loss, made
