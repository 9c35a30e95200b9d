"""Pyramids of stages whose layers pool (PoolFormer; Yu et al. 2022) or attend to a smaller map (PVT; Wang et al. 2021, 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.heads import channels
from memcalc.architectures.vision import (
    class_name,
    drop_path,
    dropout,
    image_classifier,
    made,
    pair,
    unknown_class,
)
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, Stage, given, residual, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Idle, Linear, Norm
from memcalc.blocks.image import Flatten, Prefix, Unflatten
from memcalc.blocks.pooling import KeptTokens, MapScale, PoolMixer, Pyramid, StretchedPositions
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("poolformer")
def poolformer(c: Dimensions) -> Model:
    """Four stages; a layer mixes its pixels by a mean of neighbours, and its channels by two 1x1 convolutions."""
    parts: list[Block] = []
    for i, (before, width) in enumerate(zip(_befores(c), c.hidden_sizes, strict=True)):
        size, around = pair(c.patch_sizes[i]), pair(c.padding[i])
        cut = Conv("projection", before, width, size, pair(c.strides[i]), padding=around)
        first, rest = _pool_layer(c, width, first=i == 0), _pool_layer(c, width)
        layers = stack(f"block.{i}", [first, *[rest] * (c.depths[i] - 1)], "never")
        parts.append(Stage("", (sequence(cut, name=f"patch_embeddings.{i}"), layers)))
    encoder = Sequence("encoder", (Pyramid("", tuple(parts)),))
    last = c.hidden_sizes[-1]
    if not class_name(c).endswith("ForImageClassification"):
        return _bare(c, encoder)
    base = sequence(Sequence("poolformer", (encoder,)), Norm("norm", last, "group", "group", 1))
    return image_classifier(c, base, last, "mean")


def _befores(c: Dimensions) -> list[int]:
    """The channels that each stage is given."""
    return [c.num_channels, *c.hidden_sizes[: c.num_encoder_blocks - 1]]


def _bare(c: Dimensions, encoder: Block) -> Model:
    if not class_name(c).endswith("Model"):
        raise unknown_class(c)
    return made(c, sequence(encoder), "encoder")


def _pool_layer(c: Dimensions, width: int, *, first: bool = False) -> Sequence:
    inner, path = int(width * c.mlp_ratio), drop_path(c, first=first)
    scales = [MapScale(f"layer_scale_{i}", (width,)) if c.use_layer_scale else None for i in (1, 2)]
    feed = sequence(Conv("conv1", width, inner, (1, 1)), Activation("", c.hidden_act), path,
                    Conv("conv2", inner, width, (1, 1)), path, name="output")  # fmt: skip
    before, after = (Norm(name, width, "group", "group", 1) for name in ("before_norm", "after_norm"))
    mixed = residual(before, PoolMixer("", c.pool_size), scales[0], path, lasting=(1, 2))
    return sequence(mixed, residual(after, feed, scales[1], path))


@architecture("pvt")
def pvt(c: Dimensions) -> Model:
    """Four stages of tokens, each with positions of its own; keys and values are of a smaller map."""
    height, width = pair(c.image_size)
    parts: list[Block] = []
    for i in range(c.num_encoder_blocks):
        size = (height, width) if i == 0 else (height // 2 ** (i + 1), width // 2 ** (i + 1))
        last = i == c.num_encoder_blocks - 1
        cut = _pvt_patches(c, i, size, last=last)
        first, rest = _pvt_layer(c, i, first=i == 0), _pvt_layer(c, i)
        layers = stack(f"block.{i}", [first, *[rest] * (c.depths[i] - 1)], "never")
        parts.append(Stage("", given(cut, layers, None if last else Unflatten(""))))
    hidden = c.hidden_sizes[-1]
    encoder = Sequence("encoder", (Pyramid("", tuple(parts)), Norm("layer_norm", hidden, "layer")))
    if class_name(c).endswith("ForImageClassification"):
        return image_classifier(c, Sequence("pvt", (encoder,)), hidden)
    return _bare(c, encoder)


def _pvt_patches(c: Dimensions, i: int, size: tuple[int, int], *, last: bool) -> Sequence:
    """A class token comes before the last stage's patches."""
    kernel, stride, hidden = pair(c.strides[i]), pair(c.patch_sizes[i]), c.hidden_sizes[i]
    rows, columns = size[0] // stride[0], size[1] // stride[1]
    return sequence(
        Conv("projection", _befores(c)[i], hidden, kernel, stride), Flatten(""), Norm("layer_norm", hidden, "layer"),
        Prefix("cls_token", (1, 1, hidden)) if last else None,
        StretchedPositions("position_embeddings", (1, rows * columns + last, hidden), prefix=int(last), map=(rows, columns)),
        dropout(c), name=f"patch_embeddings.{i}",
    )  # fmt: skip


def _pvt_layer(c: Dimensions, i: int, *, first: bool = False) -> Sequence:
    width, path = c.hidden_sizes[i], drop_path(c, first=first)
    inner = int(width * c.mlp_ratios[i])
    reduced = _reduction(c, i, c.sequence_reduction_ratios[i], "self.")
    mixer = _reduced(c, i, reduced, "self.", "output.dense", "pvt")
    feed = sequence(
        Linear("dense1", width, inner, bias=True), Activation("", c.hidden_act), dropout(c),
        Linear("dense2", inner, width, bias=True), dropout(c), name="mlp",
    )  # fmt: skip
    before, after = Norm("layer_norm_1", width, "layer"), Norm("layer_norm_2", width, "layer")
    return sequence(residual(before, mixer, path or Idle(""), lasting=(1,)), residual(after, feed, path))


def _reduction(c: Dimensions, i: int, ratio: int, where: str, name: str = "sequence_reduction") -> tuple[Block, ...]:
    """A map `ratio` times smaller along each side, normed; nothing where the ratio is 1."""
    width = c.hidden_sizes[i]
    if ratio <= 1:
        return ()
    conv = Conv(f"{where}{name}", width, width, (ratio, ratio), ratio)
    return (
        Unflatten("", copied=False, inner=True),
        conv,
        Flatten("", inner=True),
        Norm(f"{where}layer_norm", width, "layer"),
    )


def _reduced(c: Dimensions, i: int, before: tuple[Block, ...], where: str, out: str, formula: str) -> Attention:
    """Attention whose keys and values read what `before` makes of the tokens; always eager."""
    width, heads, bias = c.hidden_sizes[i], c.num_attention_heads[i], bool(c.qkv_bias)
    q, k, v = (Linear(f"{where}{name}", width, width, bias) for name in ("query", "key", "value"))
    return Attention(
        "attention", heads, heads, channels(width, heads), q=q, k=k, v=v, out=Linear(out, width, width, bias=True),
        before=before, causal=False, formula=formula, softmax="scores", eager_only=True,
        dropout=float(c.attention_probs_dropout_prob), out_dropout=float(c.hidden_dropout_prob),
    )  # fmt: skip


@architecture("pvt_v2")
def pvt_v2(c: Dimensions) -> Model:
    """PVT with patches that overlap, and convolutions within its MLPs in place of positions."""
    if c.linear_attention:
        raise fault("model.linear_attention", "PVT v2 with linear attention is not known")
    layers: list[Block] = []
    for i in range(c.num_encoder_blocks):
        width, size = c.hidden_sizes[i], pair(c.patch_sizes[i])
        conv = Conv("proj", _befores(c)[i], width, size, c.strides[i], padding=(size[0] // 2, size[1] // 2))
        cut = sequence(conv, Flatten(""), Norm("layer_norm", width, "layer"), name="patch_embedding")
        first, rest = _pvt_v2_layer(c, i, first=i == 0), _pvt_v2_layer(c, i)
        blocks = stack("blocks", [first, *[rest] * (c.depths[i] - 1)])
        layers.append(sequence(Stage("", (cut, blocks, Norm("layer_norm", width, "layer"), KeptTokens("")))))
    encoder = sequence(stack("layers", layers), name="encoder")
    if class_name(c).endswith("ForImageClassification"):
        return image_classifier(c, sequence(Sequence("pvt_v2", (encoder,)), Flatten("")), c.hidden_sizes[-1], "mean")
    return _bare(c, encoder)


def _pvt_v2_layer(c: Dimensions, i: int, *, first: bool = False) -> Sequence:
    width, path = c.hidden_sizes[i], drop_path(c, first=first)
    inner = int(width * c.mlp_ratios[i])
    reduced = _reduction(c, i, c.sr_ratios[i], "", "spatial_reduction")
    mixer = _reduced(c, i, reduced, "", "proj", "pvt_v2")
    feed = sequence(
        Linear("dense1", width, inner, bias=True), Unflatten("", copied=False, inner=True),
        Conv("dwconv.dwconv", inner, inner, (3, 3), 1, inner, padding=1), Flatten("", inner=True),
        Activation("", c.hidden_act), dropout(c), Linear("dense2", inner, width, bias=True), dropout(c), name="mlp",
    )  # fmt: skip
    before, after = Norm("layer_norm_1", width, "layer"), Norm("layer_norm_2", width, "layer")
    return sequence(residual(before, mixer, path or Idle(""), lasting=(1,)), residual(after, feed, path))
