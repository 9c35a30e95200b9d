"""Convolutional networks: ResNet (He et al. 2016) and ConvNeXt (Liu et al. 2022; Woo et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.vision import class_name, drop_path, image_classifier, labels, made, pair, unknown_class
from memcalc.blocks.base import Block, Sequence, residual, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Linear, Norm, Select
from memcalc.blocks.image import Axes, ChannelScale, Flatten, Pool, ResponseNorm, Shortcut
from memcalc.blocks.pooling import MeanToken

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("resnet")
def resnet(c: Dimensions) -> Model:
    """A 7x7 stem, then stages of residual convolutions."""
    stem = sequence(conv_layer("embedder", c.num_channels, c.embedding_size, 7, 2, act=c.hidden_act),
                    Pool("", "max", 3, 2, 1), name="embedder")  # fmt: skip
    return staged(c, "resnet", stem, _resnet_layer)


def staged(c: Dimensions, prefix: str, stem: Sequence, layer: Callable[[Dimensions, int, int, int], Sequence]) -> Model:
    """The stem, stages of layers, whose first alone changes width and size (every stage but the first halves), and the mean.

    `layer` makes one of the config, the width before it, its own and its stride.
    """
    widths = [c.embedding_size, *c.hidden_sizes]
    strides = [2 if c.downsample_in_first_stage else 1, *[2] * (len(c.depths) - 1)]
    stages: list[Block] = []
    for before, width, stride, depth in zip(widths, c.hidden_sizes, strides, c.depths, strict=False):
        layers: list[Block] = [layer(c, before, width, stride), *[layer(c, width, width, 1)] * (depth - 1)]
        stages.append(sequence(stack("layers", layers, "never")))
    body = sequence(stem, sequence(stack("stages", stages, "never"), name="encoder"), Pool("", "average"))
    head = Linear("classifier.1", c.hidden_sizes[-1], labels(c), bias=True) if labels(c) else None
    return convnet(c, prefix, body, head)


def convnet(c: Dimensions, prefix: str, body: Sequence, head: Block | None) -> Model:
    """The body under its classifier, or bare."""
    name = class_name(c)
    if name.endswith("ForImageClassification"):
        return made(c, sequence(Sequence(prefix, body.blocks), Flatten("", whole=True), head), "image")
    if not name.endswith("Model"):
        raise unknown_class(c)
    return made(c, body, "encoder")


def conv_layer(
    name: str, before: int, width: int, kernel: int, stride: int = 1, *, act: str = "", groups: int = 1
) -> Sequence:
    """Convolution without bias, batch norm, and an activation where `act` names one."""
    conv = Conv("convolution", before, width, (kernel, kernel), stride, groups, bias=False, padding=kernel // 2)
    return sequence(
        conv, Norm("normalization", width, "batch", "batch"), Activation("", act) if act else None, name=name
    )


def _resnet_layer(c: Dimensions, before: int, width: int, stride: int) -> Sequence:
    """act(layer(x) + shortcut(x)); the shortcut is x itself where neither width nor size changes."""
    layer = _bottleneck(c, before, width, stride) if c.layer_type == "bottleneck" else _basic(before, width, stride)
    end = Activation("", c.hidden_act)
    if before == width and stride == 1:
        return sequence(Shortcut("", layer), end)
    return sequence(Shortcut("", layer, conv_layer("shortcut", before, width, 1, stride)), end)


def _basic(before: int, width: int, stride: int) -> Block:
    """Two 3x3 convolutions (their activation is relu whatever the config says, as in ResNetBasicLayer)."""
    return stack(
        "layer", [conv_layer("", before, width, 3, stride, act="relu"), conv_layer("", width, width, 3)], "never"
    )


def _bottleneck(c: Dimensions, before: int, width: int, stride: int) -> Block:
    """1x1 to a quarter of the width, 3x3, 1x1 back; the stride is the second's (`downsample_in_bottleneck`: first)."""
    narrow, early = width // 4, bool(c.downsample_in_bottleneck)
    first = conv_layer("", before, narrow, 1, stride if early else 1, act="relu")
    second = conv_layer("", narrow, narrow, 3, 1 if early else stride, act="relu")
    return stack("layer", [first, second, conv_layer("", narrow, width, 1)], "never")


@architecture("convnext", "convnextv2")
def convnext(c: Dimensions) -> Model:
    """A patch stem, then stages of depthwise 7x7 convolutions and pointwise MLPs, halved by 2x2 convolutions."""
    patch, first = pair(c.patch_size), c.hidden_sizes[0]
    stem = sequence(Conv("patch_embeddings", c.num_channels, first, patch, patch), _map_norm("layernorm", first),
                    name="embeddings")  # fmt: skip
    befores = [first, *c.hidden_sizes]
    stages: list[Block] = [
        _convnext_stage(c, before, width, depth, halve=i > 0)
        for i, (before, width, depth) in enumerate(zip(befores, c.hidden_sizes, c.depths, strict=False))
    ]
    last = c.hidden_sizes[-1]
    body = sequence(stem, sequence(stack("stages", stages[: c.num_stages], "never"), name="encoder"), Select("", "mean"),
                    Norm("layernorm", last, "layer"))  # fmt: skip
    if class_name(c).endswith("ForImageClassification"):
        return image_classifier(c, Sequence(c.model_type, body.blocks), last, "")
    return convnet(c, c.model_type, body, None)


def _map_norm(name: str, width: int) -> Norm:
    """LayerNorm over the channels of a map: permuted, normalised, permuted back (ConvNextLayerNorm)."""
    return Norm(name, width, "layer", "channels-first")


def _convnext_stage(c: Dimensions, before: int, width: int, depth: int, *, halve: bool) -> Sequence:
    shrink = halve or before != width
    stride = 2 if halve else 1
    down = stack("downsampling_layer", [_map_norm("", before), Conv("", before, width, (2, 2), stride)], "never")
    first, rest = _convnext_layer(c, width, first=not halve), _convnext_layer(c, width)
    layers = stack("layers", [first, *[rest] * (depth - 1)], "never")
    return sequence(down if shrink else None, layers)


def _convnext_layer(c: Dimensions, width: int, *, first: bool = False) -> Sequence:
    """Give x + scale(pwconv2(act(pwconv1(norm(dwconv(x)))))); V2 normalises responses in place of the scale."""
    responses = c.traits.response_norm
    scaled = not responses and c.layer_scale_init_value > 0
    return sequence(residual(
        Conv("dwconv", width, width, (7, 7), 1, width, padding=3),
        Axes("", (0, 2, 3, 1)),
        Norm("layernorm", width, "layer"),
        Linear("pwconv1", width, 4 * width, bias=True),
        Activation("", c.hidden_act),
        ResponseNorm("grn", 4 * width) if responses else None,
        Linear("pwconv2", 4 * width, width, bias=True),
        ChannelScale("layer_scale_parameter", (width,)) if scaled else None,
        Axes("", (0, 3, 1, 2)),
        drop_path(c, first=first),
    ))  # fmt: skip


@architecture("dinov3_convnext")
def dinov3_convnext(c: Dimensions) -> Model:
    """ConvNeXt as a student of DINOv3: its stem is its first stage's, the mean of its map a token (Siméoni et al. 2025)."""
    # a null is the tiny one's (DINOv3ConvNextConfig.__post_init__)
    widths, depths = c.get("hidden_sizes") or [96, 192, 384, 768], c.get("depths") or [3, 3, 9, 3]
    stages: list[Block] = []
    for i, (before, width) in enumerate(zip([c.num_channels, *widths], widths, strict=False)):
        side = 2 if i else 4
        down = [Conv("", before, width, (side, side), side), _map_norm("", before if i else width)]
        first, rest = _dinov3_layer(c, width, first=not i), _dinov3_layer(c, width)
        layers = stack("layers", [first, *[rest] * (depths[i] - 1)], "never")
        stages.append(sequence(stack("downsample_layers", down[::-1] if i else down, "never"), layers))
    end = MeanToken(""), Norm("layer_norm", widths[-1], "layer")
    backbone = class_name(c).endswith("Backbone")
    body = sequence(sequence(stack("stages", stages, "never"), name="model"), *(() if backbone else end))
    if not (backbone or class_name(c).endswith("Model")):
        raise unknown_class(c)
    return made(c, body, "encoder")


def _dinov3_layer(c: Dimensions, width: int, *, first: bool = False) -> Sequence:
    return sequence(residual(
        Conv("depthwise_conv", width, width, (7, 7), 1, width, padding=3), Axes("", (0, 2, 3, 1)),
        Norm("layer_norm", width, "layer"), Linear("pointwise_conv1", width, 4 * width, bias=True),
        Activation("", c.hidden_act), Linear("pointwise_conv2", 4 * width, width, bias=True),
        ChannelScale("gamma", (width,)), Axes("", (0, 3, 1, 2)), drop_path(c, first=first),
    ))  # fmt: skip
