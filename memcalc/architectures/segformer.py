"""SegFormer: overlapping patches, attention to a shrunken map, convolutions in place of positions (Xie et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.vision import class_name, drop_path, dropout, labels, made, unknown_class
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, Stage, residual, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Linear, Norm, Select
from memcalc.blocks.image import Flatten, Unflatten
from memcalc.blocks.segmenting import MapsHead, Yielded

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("segformer")
def segformer(c: Dimensions) -> Model:
    """Four stages, each a map a quarter as large as the one before; a light head over all of them, or a classifier."""
    name, count = class_name(c), c.num_encoder_blocks
    befores = [c.num_channels, *c.hidden_sizes]
    body = sequence(stack("stages", [_stage(c, i, befores[i]) for i in range(count)], "never"))
    last = c.hidden_sizes[-1]
    if name.endswith("ForImageClassification"):
        head = Linear("classifier", last, labels(c), bias=True)
        return made(c, sequence(Sequence("segformer", body.blocks), Flatten(""), Select("", "mean"), head), "image")
    if name.endswith("ForSemanticSegmentation"):
        return made(c, sequence(Sequence("segformer", body.blocks), _decode_head(c)), "segmentation")
    if not name.endswith("Model"):
        raise unknown_class(c)
    return made(c, body, "encoder")


def _stage(c: Dimensions, i: int, before: int) -> Block:
    """Overlapping patches, normed; layers; a norm; back to a map."""
    width, size = c.hidden_sizes[i], c.patch_sizes[i]
    conv = Conv("proj", before, width, (size, size), c.strides[i], padding=size // 2)
    cut = sequence(conv, Flatten(""), Norm("layer_norm", width, "layer"), name="patch_embeddings")
    first, rest = _layer(c, i, first=i == 0), _layer(c, i)
    layers = stack("blocks", [first, *[rest] * (c.depths[i] - 1)])
    kept = Yielded("") if class_name(c).endswith("ForSemanticSegmentation") else None
    return Stage(
        "", tuple(part for part in (cut, layers, Norm("layer_norm", width, "layer"), Unflatten(""), kept) if part)
    )


def _layer(c: Dimensions, i: int, *, first: bool = False) -> Sequence:
    width, drop = c.hidden_sizes[i], drop_path(c, first=first)
    inner = int(width * c.mlp_ratios[i])
    as_map, back = Unflatten("", copied=False, inner=True), Flatten("", inner=True)
    depthwise = Conv("dwconv.dwconv", inner, inner, (3, 3), 1, inner, padding=1)
    feed = sequence(
        Linear("fc1", width, inner, bias=True), as_map, depthwise, back, Activation("", c.hidden_act),
        dropout(c), Linear("fc2", inner, width, bias=True), dropout(c), name="mlp",
    )  # fmt: skip
    before, after = Norm("layernorm_before", width, "layer"), Norm("layernorm_after", width, "layer")
    return sequence(residual(before, _attention(c, i), dropout(c), drop), residual(after, feed, drop))


def _attention(c: Dimensions, i: int) -> Attention:
    """Queries of every token, keys and values of a map `sr_ratios` times smaller along each side."""
    width, heads, ratio = c.hidden_sizes[i], c.num_attention_heads[i], c.sr_ratios[i]
    conv = Conv("sequence_reduction", width, width, (ratio, ratio), ratio)
    shrink = sequence(
        Unflatten("", copied=False, inner=True),
        conv,
        Flatten("", inner=True),
        Norm("layer_norm", width, "layer"),
        name="sequence_reduction",
    )
    return Attention(
        "attention", heads, heads, width // heads,
        q=Linear("q_proj", width, width, bias=True),
        k=Linear("k_proj", width, width, bias=True),
        v=Linear("v_proj", width, width, bias=True),
        out=Linear("o_proj", width, width, bias=True),
        before=(shrink,) if ratio > 1 else (), causal=False, formula="segformer",
        dropout=float(c.attention_probs_dropout_prob),
    )  # fmt: skip


def _decode_head(c: Dimensions) -> Sequence:
    """Every stage's map projected to one width and enlarged to the first's size; concatenated, fused, classified."""
    wide, count = c.decoder_hidden_size, c.num_encoder_blocks
    projections = tuple(
        Linear(f"linear_projections.{i}.proj", c.hidden_sizes[i], wide, bias=True) for i in range(count)
    )
    return sequence(
        MapsHead("", projections), Conv("linear_fuse", wide * count, wide, (1, 1), bias=False),
        Norm("batch_norm", wide, "batch", "batch"), Activation("", "relu"), dropout(c, "classifier_dropout_prob"),
        Conv("classifier", wide, labels(c), (1, 1)), name="decode_head",
    )  # fmt: skip
