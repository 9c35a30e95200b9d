"""Convolutional networks without branches of their own kind: RegNet (Radosavovic et al. 2020), MobileNet (Howard et al. 2017)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.convnets import conv_layer, convnet, staged
from memcalc.architectures.mobile_nets import conv_layer as padded_layer
from memcalc.architectures.vision import dropout, labels
from memcalc.blocks.base import Block, Stack, Stage, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Linear
from memcalc.blocks.image import Excite, Pool, Shortcut

if TYPE_CHECKING:
    from memcalc.blocks.base import Sequence
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("regnet")
def regnet(c: Dimensions) -> Model:
    """ResNet's stages with grouped convolutions as wide as their ends, and (`y`) a weight per channel."""
    stem = sequence(conv_layer("embedder", c.num_channels, c.embedding_size, 3, 2, act=c.hidden_act), name="embedder")
    return staged(c, "regnet", stem, _regnet_layer)


def _regnet_layer(c: Dimensions, before: int, width: int, stride: int) -> Sequence:
    """act(layer(x) + shortcut(x)): 1x1, grouped 3x3, a weight per channel (`y`), 1x1."""
    act, groups, squeezed = c.hidden_act, max(1, width // c.groups_width), round(before / 4)
    excite = Excite("", Conv("attention.0", width, squeezed, (1, 1)), Conv("attention.2", squeezed, width, (1, 1)))
    inside: list[Block] = [
        conv_layer("", before, width, 1, act=act), conv_layer("", width, width, 3, stride, act=act, groups=groups),
        *([] if c.layer_type == "x" else [excite]), conv_layer("", width, width, 1),
    ]  # fmt: skip
    layer, end = stack("layer", inside, "never"), Activation("", act)
    if before == width and stride == 1:
        return sequence(Shortcut("", layer), end)
    return sequence(Shortcut("", layer, conv_layer("shortcut", before, width, 1, stride)), end)


_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)  # of MobileNet's thirteen pairs


@architecture("mobilenet_v1")
def mobilenet_v1(c: Dimensions) -> Model:
    """Thirteen pairs of a depthwise and a pointwise convolution, whose widths `depth_multiplier` scales."""
    same, act = bool(c.tf_padding), c.hidden_act
    depth, width = 32, max(int(32 * c.depth_multiplier), c.min_depth)
    stem = padded_layer("conv_stem", c.num_channels, width, 3, stride=2, act=act, same=same)
    layers: list[Block] = []
    for index, stride in enumerate(_STRIDES):
        before = width
        depth *= 2 if stride == 2 or not index else 1
        width = max(int(depth * c.depth_multiplier), c.min_depth)
        layers.append(padded_layer("", before, before, 3, stride=stride, groups=before, act=act, same=same))
        layers.append(padded_layer("", before, width, 1, act=act, same=same))
    head = Linear("classifier", width, labels(c), bias=True) if labels(c) else None
    inner = Stack("layer", tuple(layers), recompute="never", resizing=True)
    body = sequence(Stage("", (stem, inner, Pool(""))))
    return convnet(c, "mobilenet_v1", body, sequence(dropout(c, "classifier_dropout_prob"), head))
