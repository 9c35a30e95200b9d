"""MobileViT 2: MobileViT whose transformers have an attention of linear cost (Mehta & Rastegari 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.convnets import convnet
from memcalc.architectures.mobile_nets import conv_layer, divisible, inverted
from memcalc.architectures.vision import labels
from memcalc.blocks.base import Block, Recomputed, Sequence, given, residual, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Dropout, Linear, Norm
from memcalc.blocks.image import Local, Pool
from memcalc.blocks.pooling import LinearMixer, Unfold

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("mobilevitv2")
def mobilevitv2(c: Dimensions) -> Model:
    """Inverted residuals, then three stages whose maps a transformer of linear cost reads square by square."""
    times = c.width_multiplier
    widths = [divisible(min(64, max(16, 32 * times)), 8, 16), divisible(64 * times, 16)]
    widths += [divisible(n * times, 8) for n in (128, 256, 384, 512)]
    dilated = {8: (False, True, True), 16: (False, False, True)}.get(c.output_stride, (False,) * 3)
    stages: list[Block] = [_plain(c, widths[0], widths[1], 1, 1), _plain(c, widths[1], widths[2], 2, 2)]
    dilation = 1
    for i, (depth, dilates) in enumerate(zip(c.n_attn_blocks, dilated, strict=True)):
        dilation *= 2 if dilates else 1
        unit = divisible(c.base_attn_unit_dims[i] * times, 8)
        stages.append(_stage(c, widths[i + 2], widths[i + 3], unit, depth, dilation))
    stem = conv_layer("conv_stem", c.num_channels, widths[0], 3, stride=2, act=c.hidden_act)
    body = sequence(stem, sequence(stack("layer", stages, "never"), name="encoder"), Pool(""))
    head = Linear("classifier", widths[-1], labels(c), bias=True) if labels(c) else None
    return convnet(c, "mobilevitv2", body, head)


def _plain(c: Dimensions, before: int, width: int, stride: int, count: int) -> Sequence:
    def one(given: int, stride: int) -> Sequence:
        return inverted(c, given, width, divisible(round(given * c.expand_ratio), 8), stride=stride)

    return sequence(stack("layer", [one(before, stride), *[one(width, 1)] * (count - 1)], "never"))


def _stage(c: Dimensions, before: int, width: int, unit: int, depth: int, dilation: int) -> Sequence:
    """A halving inverted residual; depthwise and 1x1 convolutions, a transformer over squares of the map, and back."""
    wide = divisible(round(before * c.expand_ratio), 8)
    shrink = inverted(c, before, width, wide, stride=2 if dilation == 1 else 1, dilation=max(dilation // 2, 1),
                      name="downsampling_layer")  # fmt: skip
    return Recomputed("", (Local("", (
        shrink, conv_layer("conv_kxk", width, width, c.conv_kernel_size, groups=width, act=c.hidden_act),
        Conv("conv_1x1.convolution", width, unit, (1, 1), bias=False), Unfold("", c.patch_size),
        sequence(stack("layer", [_layer(c, unit)] * depth, "never"), name="transformer"),
        Norm("layernorm", unit, "group", "group", 1), Unfold("", c.patch_size, back=True),
        conv_layer("conv_projection", unit, width, 1),
    )),))  # fmt: skip


def _layer(c: Dimensions, unit: int) -> Sequence:
    """Pre-norm, of 1x1 convolutions throughout."""
    inner, p = int(c.ffn_multiplier * unit // 16 * 16), float(c.ffn_dropout)
    drop = Dropout("", p) if p else None
    mixer = LinearMixer("attention", Conv("qkv_proj.convolution", unit, 1 + 2 * unit, (1, 1)),
                        Conv("out_proj.convolution", unit, unit, (1, 1)), unit, float(c.attn_dropout))  # fmt: skip
    feed = given(Conv("conv1.convolution", unit, inner, (1, 1)), Activation("", c.hidden_act), drop,
                 Conv("conv2.convolution", inner, unit, (1, 1)), drop)  # fmt: skip
    before, after = (Norm(name, unit, "group", "group", 1) for name in ("layernorm_before", "layernorm_after"))
    return sequence(residual(before, mixer, lasting=(0, 1)), residual(after, Sequence("ffn", feed)))
