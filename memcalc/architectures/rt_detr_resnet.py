"""RT-DETR's ResNet: a deep stem, and shortcuts that take the mean of four pixels before they project (He et al. 2019)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from memcalc.blocks.base import Block, Sequence, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Norm
from memcalc.blocks.detection import FrozenNorm
from memcalc.blocks.image import Pool, Shortcut
from memcalc.blocks.segmenting import Yielded
from memcalc.errors import fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.dimensions import Dimensions


def backbone(c: Dimensions) -> tuple[Block, list[int]]:
    """The network under the name that the detector gives it, and the channels of the maps it hands on."""
    if name := c.get("backbone"):
        raise fault("model.backbone", f"timm's {name!r} is not known for RT-DETR")
    inner = c.nested("backbone_config")
    if inner.model_type != "rt_detr_resnet":
        raise fault("model.backbone_config", f"a backbone of the type {inner.model_type!r} is not known for RT-DETR")
    conv = partial(_conv, _frozen_norm if c.freeze_backbone_batch_norms else _norm)
    widths = [inner.embedding_size, *inner.hidden_sizes]
    chosen = _chosen(inner)
    if any(not -len(widths) <= index < len(widths) for index in chosen):
        raise fault("model.backbone_config.out_indices", f"the backbone has {len(widths)} maps, its stem's among them")
    chosen = [index % len(widths) for index in chosen]
    strides = [2 if inner.downsample_in_first_stage else 1, *[2] * (len(inner.depths) - 1)]
    stages: list[Block] = []
    for i, (width, depth) in enumerate(zip(inner.hidden_sizes, inner.depths, strict=True), 1):
        first, rest = (
            _layer(inner, conv, widths[i - 1], width, strides[i - 1], first=True),
            _layer(inner, conv, width, width, 1),
        )
        layers = stack("layers", [first, *[rest] * (depth - 1)], "never")
        stages.append(sequence(layers, Yielded("") if i in chosen else None))
    blocks = _stem(inner, conv), Sequence("encoder", (stack("stages", stages, "never"),))
    return Sequence("backbone.model", blocks), [widths[index] for index in chosen]


def _chosen(c: Dimensions) -> list[int]:
    """The places of the stages whose maps are handed on: numbers, or names; the stem's is 0."""
    if names := c.get("out_features"):
        return [int(str(name).removeprefix("stage").replace("stem", "0")) for name in names]
    return list(c.get("out_indices") or [-1])


def _norm(name: str, width: int) -> Block:
    return Norm(name, width, "batch", "batch")


def _frozen_norm(name: str, width: int) -> Block:
    return FrozenNorm(name, width)


def _conv(
    norm: Callable[[str, int], Block],
    name: str,
    before: int,
    width: int,
    kernel: int,
    stride: int = 1,
    *,
    act: str = "",
) -> Sequence:
    conv = Conv("convolution", before, width, (kernel, kernel), stride, bias=False, padding=kernel // 2)
    return sequence(conv, norm("normalization", width), Activation("", act) if act else None, name=name)


def _stem(c: Dimensions, conv: Callable[..., Sequence]) -> Sequence:
    half, act = c.embedding_size // 2, c.hidden_act
    convs: list[Block] = [conv("", c.num_channels, half, 3, 2, act=act), conv("", half, half, 3, act=act),
                          conv("", half, c.embedding_size, 3, act=act)]  # fmt: skip
    return sequence(stack("embedder", convs, "never"), Pool("", "max", 3, 2, 1), name="embedder")


def _layer(
    c: Dimensions, conv: Callable[..., Sequence], before: int, width: int, stride: int, *, first: bool = False
) -> Sequence:
    """act(layer(x) + shortcut(x)), as RTDetrResNetBottleNeckLayer and RTDetrResNetBasicLayer choose the shortcut."""
    convs: list[Block]
    if c.layer_type == "bottleneck":
        narrow, early = width // 4, bool(c.downsample_in_bottleneck)
        convs = [conv("", before, narrow, 1, stride if early else 1, act="relu"),
                 conv("", narrow, narrow, 3, 1 if early else stride, act="relu"), conv("", narrow, width, 1)]  # fmt: skip
        pooled, projected = stride != 1, before != width or stride != 1
    else:
        convs = [conv("", before, width, 3, stride, act="relu"), conv("", width, width, 3)]
        pooled, projected = first and before != width, first
    short = _shortcut(conv, before, width, stride, pooled=pooled) if projected else None
    return sequence(Shortcut("", stack("layer", convs, "never"), short), Activation("", c.hidden_act))


def _shortcut(conv: Callable[..., Sequence], before: int, width: int, stride: int, *, pooled: bool) -> Block:
    """A projection; of the mean of four pixels where the map changes."""
    if not pooled:
        return conv("shortcut", before, width, 1, stride)
    return stack("shortcut", [Pool("", "average", 2, 2), conv("", before, width, 1)], "never")
