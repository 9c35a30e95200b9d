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
from memcalc.architectures.vit import pooler
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Sequence, repeat, residual, sequence
from memcalc.blocks.basic import Conv, Linear, Norm, Select
from memcalc.blocks.image import FixedPositions, Flatten, Positions, Prefix
from memcalc.blocks.mlp import Mlp
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
    layers = sequence(repeat("layer", c.num_hidden_layers, _videomae_layer(c)), name="encoder")
    norm = None if c.use_mean_pooling else Norm("layernorm", c.hidden_size, "layer")
    body = sequence(begin, layers, norm)
    pool = Norm("fc_norm", c.hidden_size, "layer") if c.use_mean_pooling else None
    return classified(c, "videomae", body, Select("", "mean" if pool else "first"), pool)


def _videomae_layer(c: Dimensions) -> Sequence:
    biased = bool(c.get("qkv_bias", c.qv_bias))  # its older name
    hidden, heads = c.hidden_size, c.num_attention_heads
    mixer = Attention(
        "attention", heads, heads, hidden // heads,
        q=Linear("attention.query", hidden, hidden, biased), k=Linear("attention.key", hidden, hidden),
        v=Linear("attention.value", hidden, hidden, biased), out=Linear("output.dense", hidden, hidden, bias=True),
        causal=False, dropout=float(c.attention_probs_dropout_prob), softmax="scores",
    )  # fmt: skip
    up, down = Linear("intermediate.dense", hidden, c.intermediate_size, bias=True), \
        Linear("output.dense", c.intermediate_size, hidden, bias=True)  # fmt: skip
    feed = Mlp("", up, down, activation=c.hidden_act, width=c.intermediate_size, inline=True)
    before, after = layer_norms(c, "layernorm_before", "layernorm_after")
    drop = dropout(c)
    return sequence(
        residual(before, mixer, drop, lasting=(0, 2 if drop else 1)), residual(after, feed, drop, within=True)
    )


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
