"""Segment Anything 2 on images: Hiera and a pyramid as its image encoder, and the decoder of masks behind (Ravi et al. 2024)."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.multimodal import tower
from memcalc.architectures.sam import deep, map_norm, mask_convolutions, two_way
from memcalc.architectures.vision import class_name, pair, unknown_class
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, residual, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Embedding, Linear, Norm, Raw
from memcalc.blocks.image import Untokened
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.multiscale import MapNeck, MultiScaleLayer, TiledPositions
from memcalc.blocks.segmenting import Unread, Yielded
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions

SCORES = 3  # linear layers of the head that scores an object (Sam2MaskDecoder.__init__)


@architecture("sam2")
def sam2(c: Dimensions) -> Model:
    """The encoder's maps, points and masks as prompts, a two-way transformer between both."""
    if not class_name(c).endswith("Model"):
        raise unknown_class(c)
    v, wide = c.vision_config, c.prompt_encoder_config.hidden_size
    shared = Raw("shared_image_embedding.positional_embedding", (2, wide // 2), buffer=True)
    memory = Raw("no_memory_embedding", (1, 1, v.fpn_hidden_size))
    decoder = tower(c.mask_decoder_config, "mask_decoder")
    later = Unread("", (memory, shared, tower(c.prompt_encoder_config, "prompt_encoder"), decoder))
    body = sequence(tower(v, "vision_encoder"), later)
    return Model(body, "encoder", image=_image(v), unread="the decoder of masks, behind the image encoder,")


@architecture("sam2_vision_model")
def sam2_vision(c: Dimensions) -> Model:
    """Stages on a map, each but the first half as large and twice as wide; the maps of all of them through a neck."""
    inner = c.backbone_config
    if len(c.backbone_channel_list) != len(inner.blocks_per_stage):
        raise fault(
            "model.backbone_channel_list", "one number of channels for each of the backbone's stages, the last first"
        )
    convs: list[Block] = [
        Conv("", width, c.fpn_hidden_size, (c.fpn_kernel_size,) * 2, c.fpn_stride, padding=c.fpn_padding)
        for width in c.backbone_channel_list
    ]
    neck = MapNeck(
        "neck", stack("convs", convs, "never"), tuple(c.fpn_top_down_levels), c.num_feature_levels, c.fpn_hidden_size
    )
    return Model(sequence(*_backbone(inner), neck), "encoder", image=_image(c), loss_fp32=False)


def _image(c: Dimensions) -> tuple[int, int, int]:
    inner = c.backbone_config
    return inner.num_channels, *pair(c.get("image_size") or inner.image_size)


def _backbone(c: Dimensions) -> tuple[Block, ...]:
    """Sam2HieraDetModel."""
    cut = Conv("projection", c.num_channels, c.hidden_size, pair(c.patch_kernel_size), pair(c.patch_stride),
               padding=pair(c.patch_padding), embeds=True)  # fmt: skip
    rows, columns = c.window_positional_embedding_background_size
    places = TiledPositions("backbone", c.hidden_size, (rows, columns), c.window_size_per_stage[0])
    return (Sequence("backbone.patch_embed", (cut,)), Untokened(""), places, stack("backbone.blocks", _layers(c)))


def _layers(c: Dimensions) -> list[Block]:
    """Of every stage; its last one's map is yielded."""
    ends = [count - 1 for count in accumulate(c.blocks_per_stage)]
    found: list[Block] = []
    number = 0
    made: dict[tuple[int, bool, bool], MultiScaleLayer] = {}
    for stage, count in enumerate(c.blocks_per_stage):
        for index in range(count):
            first, far = stage > 0 and index == 0, number in c.global_attention_blocks
            if first and far and stage <= c.num_query_pool_stages:
                raise fault(
                    "model.global_attention_blocks", f"layer {number}, which pools, needs windows in the library"
                )
            key = stage, first, far
            layer = made[key] = made.get(key) or _layer(c, stage, first=first, far=far)
            found.append(sequence(layer, Yielded("")) if number in ends else layer)
            number += 1
    return found


def _layer(c: Dimensions, stage: int, *, first: bool, far: bool) -> MultiScaleLayer:
    """Sam2MultiScaleBlock: a stage's first one works in the windows of the stage before."""
    before, width = c.embed_dim_per_stage[stage - first], c.embed_dim_per_stage[stage]
    heads, inner = c.num_attention_heads_per_stage[stage], int(width * c.mlp_ratio)
    mixer = Attention("attn", heads, heads, width // heads, qkv=Linear("qkv", before, 3 * width, bias=True),
                      out=Linear("proj", width, width, bias=True), causal=False, softmax="fp32")  # fmt: skip
    feed = Mlp("mlp", Linear("proj_in", width, inner, bias=True), Linear("proj_out", inner, width, bias=True),
               activation=c.hidden_act, width=inner)  # fmt: skip
    return MultiScaleLayer(
        "", Norm("layer_norm1", before, "layer"), mixer, Norm("layer_norm2", width, "layer"), feed,
        Linear("proj", before, width, bias=True) if before != width else None,
        0 if far else c.window_size_per_stage[stage - first],
        pair(c.query_stride) if first and stage <= c.num_query_pool_stages else None,
    )  # fmt: skip


@architecture("sam2_prompt_encoder")
def sam2_prompts(c: Dimensions) -> Model:
    """Points as embeddings of their kind, masks through three convolutions; positions that do not learn."""
    hidden = c.hidden_size
    shared = Raw("shared_embedding.positional_embedding", (2, hidden // 2), buffer=True)
    kinds = (Embedding("no_mask_embed", 1, hidden), Embedding("point_embed", c.num_point_embeddings, hidden))
    return Model(sequence(shared, mask_convolutions(c), *kinds, Embedding("not_a_point_embed", 1, hidden)), "image")


@architecture("sam2_mask_decoder")
def sam2_decoder(c: Dimensions) -> Model:
    """Tokens and map attend to each other twice; the map enlarged with larger ones; a mask and a score per mask token."""
    hidden, count = c.hidden_size, c.num_multimask_outputs + 1
    last = two_way(c, "final_attn_token_to_image", c.attention_downsample_rate, "o_proj")
    layers = stack("layers", [_two_way_layer(c)] * c.num_hidden_layers)
    grow = (Conv("upscale_conv1", hidden, hidden // 4, (2, 2), 2, transposed=True), map_norm("upscale_layer_norm", hidden // 4),
            Activation("", "gelu"), Conv("upscale_conv2", hidden // 4, hidden // 8, (2, 2), 2, transposed=True),
            Conv("conv_s0", hidden, hidden // 8, (1, 1)), Conv("conv_s1", hidden, hidden // 4, (1, 1)))  # fmt: skip
    tokens = (
        Embedding("iou_token", 1, hidden),
        Embedding("mask_tokens", count, hidden),
        Embedding("obj_score_token", 1, hidden),
    )
    body = sequence(
        *tokens, sequence(layers, residual(last), Norm("layer_norm_final_attn", hidden, "layer"), name="transformer"), *grow,
        stack("output_hypernetworks_mlps", [deep("", hidden, hidden, hidden // 8, 3)] * count),
        deep("iou_prediction_head", hidden, c.iou_head_hidden_dim, count, c.iou_head_depth),
        deep("pred_obj_score_head", hidden, hidden, 1, SCORES),
    )  # fmt: skip
    return Model(body, "image")


def _two_way_layer(c: Dimensions) -> Sequence:
    """Tokens to themselves, tokens to map, MLP, map to tokens; post-norm."""
    hidden, less, inner = c.hidden_size, c.attention_downsample_rate, c.mlp_dim
    feed = Mlp("mlp", Linear("proj_in", hidden, inner, bias=True), Linear("proj_out", inner, hidden, bias=True),
               activation="relu", width=inner)  # fmt: skip
    branches = (two_way(c, "self_attn", 1, "o_proj"), two_way(c, "cross_attn_token_to_image", less, "o_proj"), feed,
                two_way(c, "cross_attn_image_to_token", less, "o_proj"))  # fmt: skip
    norms = (Norm(f"layer_norm{i}", hidden, "layer") for i in range(1, 5))
    return sequence(*(part for branch, norm in zip(branches, norms, strict=True) for part in (residual(branch), norm)))
