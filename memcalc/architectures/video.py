"""Vision transformers that read videos: tubes of a few frames as tokens (VideoMAE, ViViT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.vision import (
    attention,
    class_name,
    dropout,
    encoder_layer,
    labels,
    layer_norms,
    mlp,
    pair,
    unknown_class,
)
from memcalc.architectures.vit import nested_layer, pooler
from memcalc.blocks.base import Sequence, repeat, sequence
from memcalc.blocks.basic import Conv, Linear, Norm, Select
from memcalc.blocks.image import FixedPositions, Flatten, Positions, Prefix
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions


def tubes(c: Dimensions, size: tuple[int, int, int]) -> tuple[Sequence, int]:
    """A convolution over (frames, rows, columns) of pixels, each tube a token; and how many there are."""
    conv = Conv("projection", c.num_channels, c.hidden_size, size, size, embeds=True)
    sides = (c.num_frames, *pair(c.image_size))
    counts = [whole // part for whole, part in zip(sides, size, strict=True)]
    return sequence(conv, Flatten(""), name="patch_embeddings"), counts[0] * counts[1] * counts[2]


def video(c: Dimensions, body: Block, kind: str) -> Model:
    """A model whose input is one video of the config's size."""
    size = (c.num_channels, c.num_frames, *pair(c.image_size))
    return Model(body, kind, image=size, loss_fp32=False)  # type: ignore[arg-type]


def classified(c: Dimensions, prefix: str, body: Sequence, *head: Block | None) -> Model:
    """The body under its class's head: a classifier behind what else the `head` has, or the bare model."""
    name = class_name(c)
    if name.endswith("ForVideoClassification"):
        linear = Linear("classifier", c.hidden_size, labels(c), bias=True) if labels(c) else None
        return video(c, sequence(Sequence(prefix, body.blocks), *head, linear), "image")
    if not name.endswith("Model"):
        raise unknown_class(c)
    return video(c, body, "encoder")


@architecture("videomae")
def videomae(c: Dimensions) -> Model:
    """A ViT over tubes, fixed sinusoidal positions, no class token (Tong et al. 2022)."""
    cut, count = tubes(c, (c.tubelet_size, *pair(c.patch_size)))
    begin = sequence(cut, FixedPositions("", count, c.hidden_size), name="embeddings")
    biased = c.but(qkv_bias=c.get("qkv_bias", c.qv_bias))  # its older name
    layer = nested_layer(biased, key_bias=False)
    layers = sequence(repeat("layer", c.num_hidden_layers, layer), name="encoder")
    norm = None if c.use_mean_pooling else Norm("layernorm", c.hidden_size, "layer")
    body = sequence(begin, layers, norm)
    pool = Norm("fc_norm", c.hidden_size, "layer") if c.use_mean_pooling else None
    return classified(c, "videomae", body, Select("", "mean" if pool else "first"), pool)


@architecture("vivit")
def vivit(c: Dimensions) -> Model:
    """A ViT over tubes, with a class token and learned positions (Arnab et al. 2021)."""
    frames, rows, columns = c.tubelet_size
    cut, count = tubes(c, (frames, rows, columns))
    table = Positions("position_embeddings", (1, count + 1, c.hidden_size))
    begin = sequence(cut, Prefix("cls_token", (1, 1, c.hidden_size)), table, dropout(c), name="embeddings")
    norms = layer_norms(c, "layernorm_before", "layernorm_after")
    layer = encoder_layer(attention(c, "attention", bias=bool(c.qkv_bias)), mlp(c), norms, drop=dropout(c))
    body = sequence(begin, repeat("layers", c.num_hidden_layers, layer), Norm("layernorm", c.hidden_size, "layer"))
    if class_name(c).endswith("Model"):
        return video(c, sequence(*body.blocks, pooler(c)), "encoder")
    return classified(c, "vivit", body, Select(""))
