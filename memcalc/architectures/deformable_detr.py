"""Deformable DETR: pixels of maps of several sizes and queries, each of which looks at a few points (Zhu et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.detr import backbone, check_points
from memcalc.architectures.seq2seq import dropout, feed_forward, norm
from memcalc.architectures.vision import class_name, image, labels, prediction_head, unknown_class
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, PostNorm, Sequence, Stack, repeat, sequence, stack
from memcalc.blocks.basic import Conv, Linear, Norm
from memcalc.blocks.deformable import Deformable, DeformableDetector
from memcalc.blocks.detection import LooksFinite
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions

GROUPS = 32  # of the norm behind each projection (DeformableDetrModel.__init__)


@architecture("deformable_detr")
def deformable_detr(c: Dimensions) -> Model:
    """Boxes are read once, from queries that are learned; heads of all layers are one."""
    if not class_name(c).endswith("ForObjectDetection"):
        raise unknown_class(c)
    if c.two_stage or c.with_box_refine or c.position_embedding_type != "sine" or c.num_feature_levels == 1:
        raise fault("model", "neither two stages, refined boxes, learned positions nor one map alone are known for "
                             "Deformable DETR")  # fmt: skip
    if c.decoder_layers < 1:
        raise fault("model.decoder_layers", "boxes are read behind each of the decoder's layers: one at least")
    check_points(c, c.encoder_attention_heads, c.decoder_attention_heads)
    base, channels, _ = backbone(c)
    maps, width = _maps(c, len(channels)), c.d_model
    encoder = sequence(_points(c, "self_attn", c.encoder_attention_heads, c.encoder_n_points), _feed(c, c.encoder_ffn_dim),
                       LooksFinite(""))  # fmt: skip
    decoder = sequence(
        _attention(c),
        _points(c, "encoder_attn", c.decoder_attention_heads, c.decoder_n_points),
        _feed(c, c.decoder_ffn_dim),
    )
    body = DeformableDetector(
        "model", base, stack("input_proj", _projections(c, channels[-maps:]), "never"),
        sequence(repeat("layers", c.encoder_layers, encoder), name="encoder"),
        sequence(repeat("layers", c.decoder_layers, decoder), name="decoder"),
        Linear("reference_points", width, 2, bias=True), float(c.dropout), c.num_queries, width, maps, c.num_feature_levels,
    )  # fmt: skip
    return Model(sequence(body, *_heads(c)), "detection", image=image(c), loss_fp32=False)


def _maps(c: Dimensions, stages: int) -> int:
    """How many of the backbone's maps are read, of `stages` that it has, its stem among them: the last ones."""
    given = c.get("backbone_config")
    inner = given if isinstance(given, dict) else given.given() if given else {}
    if names := inner.get("out_features"):
        indices = [int(str(name).removeprefix("stage").replace("stem", "0")) for name in names]
    else:
        indices = list(inner.get("out_indices") or [2, 3, 4])
    if indices != list(range(stages - len(indices), stages)):
        raise fault("model.backbone_config", "the backbone's last maps are read, without a gap")
    return len(indices)


def _projections(c: Dimensions, channels: list[int]) -> list[Block]:
    """Of every map, and of the last one halved for each further level."""
    width, more = c.d_model, c.num_feature_levels - len(channels)
    befores = [channels[-1], *[width] * more][:more]
    convs = [Conv("", before, width, (1, 1)) for before in channels]
    convs += [Conv("", before, width, (3, 3), 2, padding=1) for before in befores]
    return [stack("", [conv, Norm("", width, "group", "group", GROUPS)], "never") for conv in convs]


def _heads(c: Dimensions) -> tuple[Stack, Stack]:
    """A class and a box, by the first layer's parameters."""
    width, count = c.d_model, c.decoder_layers
    tied = c.tie_word_embeddings
    first = Linear("", width, labels(c), bias=True)
    more = Linear("", width, labels(c), True, "class_embed.0.weight", "class_embed.0.bias") if tied else first
    box = prediction_head("", width, 4, 3)
    boxes = _shared(box, "bbox_embed.0") if tied else box
    return (stack("class_embed", [first, *[more] * (count - 1)], "never"),
            stack("bbox_embed", [box, *[boxes] * (count - 1)], "never"))  # fmt: skip


def _shared(block: Block, name: str) -> Block:
    """The same, each of its parameters that of another of this name."""
    if isinstance(block, Linear):
        return Linear(block.name, block.inputs, block.outputs, block.bias, f"{name}.weight", f"{name}.bias")
    if isinstance(block, Stack):
        return stack(
            block.name, [_shared(layer, f"{name}.{block.name}.{i}") for i, layer in enumerate(block.layers)], "never"
        )
    if isinstance(block, Sequence):
        return Sequence(block.name, tuple(_shared(part, name) for part in block.blocks))
    return block


def _points(c: Dimensions, name: str, heads: int, points: int) -> PostNorm:
    width, each = c.d_model, heads * c.num_feature_levels * points
    return _normed(c, Deformable(
        name, heads, c.num_feature_levels, points, Linear("sampling_offsets", width, 2 * each, bias=True),
        Linear("attention_weights", width, each, bias=True), Linear("value_proj", width, width, bias=True),
        Linear("output_proj", width, width, bias=True),
    ), f"{name}_layer_norm")  # fmt: skip


def _attention(c: Dimensions) -> PostNorm:
    width, heads = c.d_model, c.decoder_attention_heads
    q, k, v, out = (Linear(f"{letter}_proj", width, width, bias=True) for letter in "qkvo")
    return _normed(c, Attention("self_attn", heads, heads, width // heads, q, k, v, out=out, causal=False, formula="placed",
                                dropout=float(c.attention_dropout), softmax="scores"), "self_attn_layer_norm")  # fmt: skip


def _feed(c: Dimensions, inner: int) -> PostNorm:
    return _normed(c, feed_forward(c, inner, "mlp"), "final_layer_norm")


def _normed(c: Dimensions, block: Block, name: str) -> PostNorm:
    return PostNorm("", (block, dropout(c)), norm(c, name), rebound=True)
