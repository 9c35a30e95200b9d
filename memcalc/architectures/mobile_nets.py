"""Small convolutional networks of inverted residuals: MobileNetV2, EfficientNet, MobileViT."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.convnets import convnet
from memcalc.architectures.vision import attention, dropout, encoder_layer, labels, layer_norms, mlp
from memcalc.blocks.base import Block, Recomputed, Sequence, Stack, Stage, residual, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Linear, Norm
from memcalc.blocks.image import Excite, Join, Keep, Local, Pad, PixelGroups, Pool, SamePad
from memcalc.dimensions import DEEPEST
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


def divisible(value: float, divisor: int, least: int = 0) -> int:
    """The multiple of `divisor` nearest to value, at least `least`, and not below nine tenths of value."""
    near = max(least or divisor, int(value + divisor / 2) // divisor * divisor)
    return near + divisor if near < 0.9 * value else near


def conv_layer(
    name: str,
    before: int,
    width: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    act: str = "",
    dilation: int = 1,
    same: bool = False,
) -> Sequence:
    """Convolution without bias, batch norm, activation; padded as TensorFlow does it, or by the convolution."""
    size = 0 if same else (kernel - 1) // 2 * dilation
    pad = SamePad("", kernel, stride, dilation) if same else None
    conv = Conv(
        "convolution", before, width, (kernel, kernel), stride, groups, bias=False, padding=size, dilation=dilation
    )
    return sequence(
        pad, conv, Norm("normalization", width, "batch", "batch"), Activation("", act) if act else None, name=name
    )


def inverted(
    c: Dimensions, before: int, width: int, wide: int, *, stride: int, dilation: int = 1, name: str = ""
) -> Sequence:
    """1x1 to `wide` channels, depthwise 3x3, 1x1 to `width`; x + it where nothing changes size (Sandler et al. 2018)."""
    same = bool(c.get("tf_padding"))
    inside = (
        conv_layer("expand_1x1", before, wide, 1, act=c.hidden_act, same=same),
        conv_layer(
            "conv_3x3", wide, wide, 3, stride=stride, groups=wide, act=c.hidden_act, dilation=dilation, same=same
        ),
        conv_layer("reduce_1x1", wide, width, 1, same=same),
    )
    return sequence(residual(*inside), name=name) if stride == 1 and before == width else sequence(*inside, name=name)


def _classifier(c: Dimensions, width: int) -> Sequence:
    head = Linear("classifier", width, labels(c), bias=True) if labels(c) else None
    return sequence(dropout(c, "classifier_dropout_prob"), head)


_WIDTHS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
_STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)


@architecture("mobilenet_v2")
def mobilenet_v2(c: Dimensions) -> Model:
    """Sixteen inverted residuals whose widths `depth_multiplier` scales; past `output_stride` they dilate instead."""

    def scaled(width: int) -> int:
        return divisible(round(width * c.depth_multiplier), c.depth_divisible_by, c.min_depth)

    widths = [scaled(width) for width in _WIDTHS]
    layers: list[Block] = []
    reached, dilation = 2, 1
    for before, width, stride in zip(widths, widths[1:], _STRIDES, strict=False):
        wide = divisible(round(before * c.expand_ratio), c.depth_divisible_by, c.min_depth)
        dilated = reached == c.output_stride
        layers.append(
            inverted(c, before, width, wide, stride=1 if dilated else stride, dilation=dilation if dilated else 1)
        )
        dilation, reached = (dilation * stride, reached) if dilated else (dilation, reached * stride)
    last = 1280 if c.finegrained_output and c.depth_multiplier < 1 else scaled(1280)
    end = conv_layer("conv_1x1", widths[-1], last, 1, act=c.hidden_act, same=bool(c.tf_padding))
    inner = Stack("layer", tuple(layers), resizing=True)
    body = sequence(Stage("", (_mobile_stem(c, scaled(32), widths[0]), inner, end, Pool(""))))
    return convnet(c, "mobilenet_v2", body, _classifier(c, last))


def _mobile_stem(c: Dimensions, wide: int, width: int) -> Sequence:
    act, same = c.hidden_act, bool(c.tf_padding)
    return sequence(
        conv_layer("first_conv", c.num_channels, wide, 3, stride=2, act=act, same=same),
        None if c.first_layer_is_expansion else conv_layer("expand_1x1", wide, wide, 1, act=act, same=same),
        conv_layer("conv_3x3", wide, wide, 3, groups=wide, act=act, same=same),
        conv_layer("reduce_1x1", wide, width, 1, same=same), name="conv_stem",
    )  # fmt: skip


@architecture("efficientnet")
def efficientnet(c: Dimensions) -> Model:
    """Inverted residuals with squeeze and excitation, scaled in width and depth at once (Tan & Le 2019)."""

    def scaled(width: int) -> int:
        return divisible(width * c.width_coefficient, c.depth_divisor)

    blocks: list[Block] = []
    for i, (first, width) in enumerate(zip(c.in_channels, c.out_channels, strict=True)):
        depth, before, after = math.ceil(c.depth_coefficient * c.num_block_repeats[i]), scaled(first), scaled(width)
        if depth > DEEPEST:
            raise fault("model.depth_coefficient", f"it makes {depth:,} layers; up to {DEEPEST:,} are read")
        more = {"kernel": c.kernel_sizes[i], "ratio": c.expand_ratios[i]}
        rest = _efficient_block(c, after, after, stride=1, first=False, **more)
        blocks += [_efficient_block(c, before, after, stride=c.strides[i], first=True, **more), *[rest] * (depth - 1)]
    stem, last, top = scaled(32), scaled(c.out_channels[-1]), scaled(1280)
    begin = sequence(
        Pad("", 1), Conv("convolution", c.num_channels, stem, (3, 3), 2, bias=False), Norm("batchnorm", stem, "batch", "batch"),
        Activation("", c.hidden_act), name="embeddings",
    )  # fmt: skip
    ends = (
        Conv("top_conv", last, top, (1, 1), bias=False),
        Norm("top_bn", c.hidden_dim, "batch", "batch"),
        Activation("", c.hidden_act),
    )
    body = sequence(begin, sequence(stack("blocks", blocks), *ends, name="encoder"), Pool(""))
    head = Linear("classifier", c.hidden_dim, labels(c), bias=True) if labels(c) else None
    return convnet(c, "efficientnet", body, sequence(dropout(c, "dropout_rate"), head))


def _efficient_block(
    c: Dimensions, before: int, width: int, *, stride: int, first: bool, kernel: int, ratio: int
) -> Sequence:
    """Expand, depthwise, excite, project; x + it but for the first of a stage."""
    wide, squeezed, act = before * ratio, max(1, int(before * c.squeeze_expansion_ratio)), Activation("", c.hidden_act)
    expand = sequence(Conv("expand_conv", before, wide, (1, 1), bias=False), Norm("expand_bn", wide, "batch", "batch"), act,
                      name="expansion")  # fmt: skip
    around = kernel // 2 if stride == 1 else 0
    depthwise = Conv("depthwise_conv", wide, wide, (kernel, kernel), stride, wide, bias=False, padding=around)
    pad, norm = Pad("", kernel - 2) if stride > 1 else None, Norm("depthwise_norm", wide, "batch", "batch")
    middle = sequence(pad, depthwise, norm, act, name="depthwise_conv")
    reduce, back = Conv("reduce", wide, squeezed, (1, 1)), Conv("expand", squeezed, wide, (1, 1))
    end = sequence(
        Conv("project_conv", wide, width, (1, 1), bias=False),
        Norm("project_bn", width, "batch", "batch"),
        name="projection",
    )
    inside = (expand if ratio != 1 else None, middle, Excite("squeeze_excite", reduce, back, c.hidden_act), end)
    return sequence(*inside) if first else sequence(residual(*inside, dropout(c, "drop_connect_rate")))


@architecture("mobilevit")
def mobilevit(c: Dimensions) -> Model:
    """Inverted residuals, then three stages whose maps a small transformer reads patch by patch (Mehta & Rastegari 2022)."""
    neck, act = c.neck_hidden_sizes, c.hidden_act
    dilated = {8: (False, True, True), 16: (False, False, True)}.get(c.output_stride, (False,) * 3)
    stages: list[Block] = [_mobile_layers(c, neck[0], neck[1], 1, 1), _mobile_layers(c, neck[1], neck[2], 2, 3)]
    dilation = 1
    for i, (depth, dilates) in enumerate(zip((2, 4, 3), dilated, strict=True)):
        dilation *= 2 if dilates else 1
        stages.append(_mobilevit_stage(c, neck[i + 2], neck[i + 3], c.hidden_sizes[i], depth, dilation))
    stem = conv_layer("conv_stem", c.num_channels, neck[0], 3, stride=2, act=act)
    end = conv_layer("conv_1x1_exp", neck[5], neck[6], 1, act=act)
    body = sequence(stem, sequence(stack("layer", stages, "never"), name="encoder"), end)
    return convnet(c, "mobilevit", body, sequence(Pool(""), _classifier(c, neck[-1])))


def _expanded(c: Dimensions, before: int) -> int:
    return divisible(round(before * c.expand_ratio), 8)


def _mobile_layers(c: Dimensions, before: int, width: int, stride: int, count: int) -> Sequence:
    first = inverted(c, before, width, _expanded(c, before), stride=stride)
    rest = inverted(c, width, width, _expanded(c, width), stride=1)
    return sequence(stack("layer", [first, *[rest] * (count - 1)], "never"))


def _mobilevit_stage(c: Dimensions, before: int, width: int, hidden: int, depth: int, dilation: int) -> Sequence:
    """A halving inverted residual; convolutions, a transformer over patches, a fusion with what went in."""
    kernel, act = c.conv_kernel_size, c.hidden_act
    shrink = inverted(c, before, width, _expanded(c, before), stride=2 if dilation == 1 else 1,
                      dilation=max(dilation // 2, 1), name="downsampling_layer")  # fmt: skip
    point = sequence(Conv("convolution", width, hidden, (1, 1), bias=False), name="conv_1x1")
    layers = sequence(stack("layer", [_mobilevit_layer(c, hidden)] * depth, "never"), name="transformer")
    blocks: tuple[Block, ...] = (
        shrink, Keep(""), conv_layer("conv_kxk", width, width, kernel, act=act), point,
        PixelGroups("", c.patch_size), layers, Norm("layernorm", hidden, "layer"), PixelGroups("", c.patch_size, back=True),
        conv_layer("conv_projection", hidden, width, 1, act=act), Join(""),
        conv_layer("fusion", 2 * width, width, kernel, act=act),
    )  # fmt: skip
    return Recomputed("", (Local("", blocks),))


def _mobilevit_layer(c: Dimensions, hidden: int) -> Sequence:
    d = c.but(hidden_size=hidden)
    q, k, v = (Linear(f"attention.{name}", hidden, hidden, bool(c.qkv_bias)) for name in ("query", "key", "value"))
    mixer = replace(attention(d, "attention", out="output.dense", formula="mobilevit", eager_only=True), q=q, k=k, v=v)
    feed = mlp(d, int(hidden * c.mlp_ratio), name="", names=("intermediate.dense", "output.dense"))
    return encoder_layer(mixer, feed, layer_norms(d, "layernorm_before", "layernorm_after"), drop=dropout(c))
