"""Swin transformers: attention within shifted windows, and a map halved from stage to stage (Liu et al. 2021, 2022)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from memcalc.architectures import architecture
from memcalc.architectures.vision import (
    class_name,
    drop_path,
    dropout,
    image_classifier,
    made,
    mlp,
    pair,
    patches,
    unknown_class,
)
from memcalc.architectures.vit import pixel_decoder
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, sequence, stack
from memcalc.blocks.basic import Activation, Linear, Norm, Raw, Select
from memcalc.blocks.image import KeptMap, MergeNeighbours, Positions, SamePad, WindowLayer
from memcalc.blocks.painting import MaskedPatches

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.blocks.base import Recompute
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

    Layer = Callable[[Dimensions, "Stage", bool, bool], WindowLayer]


class Stage(NamedTuple):
    """Channels, heads and the map (rows, columns) of one stage."""

    width: int
    heads: int
    map: tuple[int, int]


@architecture("swin")
def swin(c: Dimensions) -> Model:
    """Windows of window_size², a relative position bias per head, patches merged two by two between stages."""
    return _swin(c, layer_of, 0)


@architecture("swinv2")
def swinv2(c: Dimensions) -> Model:
    """Swin with cosine attention, norms behind each branch and position biases from a small network."""
    return _swin(c, _layer_v2, 1)


@architecture("donut-swin")
def donut_swin(c: Dimensions) -> Model:
    """Swin without a norm behind it, as Donut reads pages with it (Kim et al. 2022)."""
    last = c.embed_dim * 2 ** (len(c.depths) - 1)
    body = (_embeddings(c, 0, masked=False), sequence(_stages(c, layer_donut), name="encoder"))
    if class_name(c).endswith("ForImageClassification"):
        return image_classifier(c, Sequence("donut", body), last, "mean")
    return made(c, sequence(*body, Select("", "mean")), "encoder")


def stages_with_indices(c: Dimensions) -> Block:
    """Stages of layers that keep the places of their biases as a buffer (Donut's, CLAP's)."""
    return _stages(c, layer_donut)


def _swin(c: Dimensions, layer: Layer, more_positions: int) -> Model:
    name, last = class_name(c), c.embed_dim * 2 ** (len(c.depths) - 1)
    body = (
        _embeddings(c, more_positions, masked=name.endswith("ForMaskedImageModeling")),
        sequence(_stages(c, layer), name="encoder"),
        Norm("layernorm", last, "layer"),
    )
    if name.endswith("ForImageClassification"):
        return image_classifier(c, Sequence(c.model_type, body), last, "mean")
    if name.endswith("ForMaskedImageModeling"):
        return pixel_decoder(c, Sequence(c.model_type, body), last)
    if not name.endswith("Model"):
        raise unknown_class(c)
    return made(c, sequence(*body, Select("", "mean")), "encoder")


def starting(c: Dimensions) -> tuple[Sequence, tuple[int, int]]:
    """The embeddings of patches, and the map (rows, columns) of them."""
    return _embeddings(c, 0, masked=False), _map(c)


def _grid(c: Dimensions) -> tuple[int, int]:
    (height, width), (rows, columns) = pair(c.image_size), pair(c.patch_size)
    return height // rows, width // columns


def _map(c: Dimensions) -> tuple[int, int]:
    """Rows and columns of patches, of an image that is filled up to whole ones (SwinPatchEmbeddings.maybe_pad)."""
    (height, width), (rows, columns) = pair(c.image_size), pair(c.patch_size)
    return -(-height // rows), -(-width // columns)


def _embeddings(c: Dimensions, more: int, *, masked: bool) -> Sequence:
    height, width = _grid(c)
    table = Positions("position_embeddings", (1, height * width + more, c.embed_dim))
    (wide, _), whole = pair(c.patch_size), _map(c) == (height, width)
    filled = None if whole else SamePad("", wide, wide)
    cut = sequence(filled, *patches(c, "projection", c.embed_dim).blocks, name="patch_embeddings")
    mask = MaskedPatches("mask_token", (1, 1, c.embed_dim)) if masked else None
    places = table if c.use_absolute_embeddings else None
    return sequence(cut, Norm("norm", c.embed_dim, "layer"), mask, places, dropout(c), name="embeddings")


def _stages(c: Dimensions, layer: Layer) -> Block:
    """Stage i: depths[i] layers of embed_dim * 2^i channels, every second one shifted, then patches merged."""
    stages: list[Block] = []
    rows, columns = _map(c)
    by_stages = c.traits.checkpoints_stages
    inner: Recompute = "outermost" if by_stages else "always"
    for i, (depth, heads) in enumerate(zip(c.depths, c.num_heads, strict=True)):
        stage = Stage(c.embed_dim * 2**i, heads, (rows, columns))
        plain, shifted = layer(c, stage, False, False), layer(c, stage, True, False)
        begin = layer(c, stage, False, True) if i == 0 else plain
        blocks = stack("blocks", [begin, *(shifted if j % 2 else plain for j in range(1, depth))], inner)
        merge = None
        if i < len(c.depths) - 1:
            merge, rows, columns = merged(stage, behind=c.traits.norm_behind_merge), (rows + 1) // 2, (columns + 1) // 2
        kept = None if by_stages else KeptMap("", (rows, columns))
        stages.append(sequence(blocks, merge, kept))
    return stack("layers", stages)


def merged(stage: Stage, *, behind: bool = False) -> Sequence:
    """Four neighbours to one token of twice the width; Swin norms before the projection, Swin v2 behind it."""
    width = stage.width
    reduction = Linear("reduction", 4 * width, 2 * width)
    last = (reduction, Norm("norm", 2 * width, "layer")) if behind else (Norm("norm", 4 * width, "layer"), reduction)
    return sequence(MergeNeighbours("", 2, stage.map), *last, name="downsample")


def layer_of(c: Dimensions, stage: Stage, shifted: bool, first: bool) -> WindowLayer:
    """Norm, attention within windows, x + it; norm, MLP, x + it."""
    width, heads, side = stage.width, stage.heads, min(stage.map)
    size = c.window_size
    table = Raw("relative_position_bias.relative_position_bias_table", ((2 * size - 1) ** 2, heads))
    mixer = _attention(c, stage, ("q_proj", "k_proj", "v_proj", "o_proj"), table)
    feed = mlp(c, int(c.mlp_ratio * width), hidden=width)
    norms = Norm("layernorm_before", width, "layer"), Norm("layernorm_after", width, "layer")
    return WindowLayer("", norms, mixer, feed, dropout(c), drop_path(c, first=first), stage.map, min(size, side),
                       shifted and side > size)  # fmt: skip


def _layer_v2(c: Dimensions, stage: Stage, shifted: bool, first: bool) -> WindowLayer:
    """Attention within windows, norm, x + it; MLP, norm, x + it."""
    width, heads, side = stage.width, stage.heads, min(stage.map)
    size = min(c.window_size, side)
    network = (Linear("0", 2, 512, bias=True), Activation("", "relu"), Linear("2", 512, heads))
    biases = Sequence("self.continuous_position_bias_mlp", network)
    scale = Raw("self.logit_scale", (heads, 1, 1))
    mixer = _attention(c, stage, ("self.query", "self.key", "self.value", "output.dense"), scale, biases, cosine=True)
    feed = mlp(c, int(c.mlp_ratio * width), name="", names=("intermediate.dense", "output.dense"), hidden=width)
    norms = Norm("layernorm_before", width, "layer"), Norm("layernorm_after", width, "layer")
    return WindowLayer("", norms, mixer, feed, dropout(c), drop_path(c, first=first), stage.map, size,
                       shifted and side > size, behind=True, named=True)  # fmt: skip


def layer_donut(c: Dimensions, stage: Stage, shifted: bool, first: bool) -> WindowLayer:
    """Swin's layer with its older names, which last longer."""
    layer = layer_of(c, stage, shifted, first)
    side = min(c.window_size, *stage.map)
    table = Raw("self.relative_position_bias_table", ((2 * c.window_size - 1) ** 2, stage.heads))
    where = Raw("self.relative_position_index", (c.window_size**2,) * 2, buffer=True, dtype="int64")
    mixer = _attention(c, stage, ("self.query", "self.key", "self.value", "output.dense"), table, where)
    feed = mlp(
        c, int(c.mlp_ratio * stage.width), name="", names=("intermediate.dense", "output.dense"), hidden=stage.width
    )
    mixer = replace(mixer, formula="donut-swin", softmax="scores", out_dropout=float(c.attention_probs_dropout_prob))
    return replace(layer, mixer=mixer, mlp=sequence(feed, dropout(c)), dropout=None, size=side, named=True)


def _attention(
    c: Dimensions, stage: Stage, names: tuple[str, str, str, str], *biases: Block, cosine: bool = False
) -> Attention:
    """Attention with a bias on its scores; Swin v2 has no bias on its keys and compares by cosine."""
    (width, heads), (q, k, v, out) = (stage.width, stage.heads), names
    return Attention(
        "attention", heads, heads, width // heads,
        q=Linear(q, width, width, bool(c.qkv_bias)),
        k=Linear(k, width, width, bool(c.qkv_bias) and not cosine),
        v=Linear(v, width, width, bool(c.qkv_bias)),
        out=Linear(out, width, width, bias=True),
        before=biases, causal=False, formula="swinv2" if cosine else "swin",
        softmax="scores" if cosine else "fp32",
        dropout=float(c.attention_probs_dropout_prob), out_dropout=float(c.attention_probs_dropout_prob) if cosine else 0.0,
    )  # fmt: skip
