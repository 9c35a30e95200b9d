"""Hiera: a vision transformer of stages without frills (Ryali et al. 2023)."""

from __future__ import annotations

from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.vision import class_name, drop_path, labels, made, mlp, pair, unknown_class
from memcalc.blocks.base import Block, Sequence, Stack, sequence, stack
from memcalc.blocks.basic import Conv, Linear, Norm, Select
from memcalc.blocks.hiera import MaskUnitAttention, PoolingLayer, Unrolled
from memcalc.blocks.image import Flatten, Positions

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("hiera")
def hiera(c: Dimensions) -> Model:
    """Patches that overlap, stages each half as long and twice as wide; attention within windows in the first of them."""
    (high, wide), (down, across) = pair(c.image_size), pair(c.patch_stride)
    map_ = high // down, wide // across
    conv = Conv(
        "projection",
        c.num_channels,
        c.embed_dim,
        pair(c.patch_size),
        (down, across),
        padding=pair(c.patch_padding),
        embeds=True,
    )
    places = Positions("position_embeddings", (1, prod(map_), c.embed_dim))
    start = sequence(Sequence("patch_embeddings", (conv, Flatten(""))), places, name="embeddings")
    order = Unrolled("", map_, (pair(c.query_stride),) * (len(c.depths) - 1))
    stages: list[Block] = [Sequence("", (stack("layers", _layers(c, i), "never"),)) for i in range(len(c.depths))]
    width = _width(c, len(c.depths) - 1)
    pool = sequence(Select("", "mean"), Norm("layernorm", width, "layer"), name="pooler")
    parts = (start, order, sequence(Stack("stages", tuple(stages), resizing=True), name="encoder"), pool)
    if class_name(c).endswith("ForImageClassification"):
        head = Linear("classifier", width, labels(c), bias=True) if labels(c) else None
        return made(c, sequence(Sequence("hiera", parts), head), "image")
    if not class_name(c).endswith("Model"):
        raise unknown_class(c)
    return made(c, sequence(*parts), "encoder")


def _width(c: Dimensions, stage: int) -> int:
    return int(c.embed_dim * c.embed_dim_multiplier**stage)


def _layers(c: Dimensions, stage: int) -> list[Block]:
    """The layers of a stage, of which the first pools: queries, and the stream where it grows wider."""
    ends = [0, *accumulate(c.depths)]
    pooled = ends[1 : c.num_query_pool + 1]
    area, width = prod(pair(c.query_stride)), _width(c, stage)
    window = int(prod(pair(c.masked_unit_size)) * float(area) ** -stage)
    units, before = c.masked_unit_attention, c.masked_unit_attention[max(stage - 1, 0)]
    first = _layer(c, stage, _width(c, max(stage - 1, 0)), area if ends[stage] in pooled else 1,
                   window if units[stage] or before else 0, first=not stage)  # fmt: skip
    rest = _layer(c, stage, width, 1, window if units[stage] else 0)
    return [first, *[rest] * (c.depths[stage] - 1)]


def _layer(c: Dimensions, stage: int, before: int, stride: int, window: int, *, first: bool = False) -> PoolingLayer:
    width = _width(c, stage)
    mixer = MaskUnitAttention("attn", Linear("qkv", before, 3 * width, bias=True), Linear("proj", width, width, bias=True),
                              c.num_heads[stage], stride, window)  # fmt: skip
    return PoolingLayer(
        "", Norm("layernorm_before", before, "layer"), mixer, Norm("layernorm_after", width, "layer"),
        mlp(c, int(width * c.mlp_ratio), hidden=width), Linear("proj", before, width, bias=True) if before != width else None,
        drop_path(c, first=first), stride,
    )  # fmt: skip
