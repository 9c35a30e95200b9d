"""Segment Anything: a large image encoder, small ones for prompts, and a decoder of masks (Kirillov et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.multimodal import tower
from memcalc.architectures.vision import class_name, image, layer_norms, made, mlp, pair, unknown_class
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Param, Sequence, residual, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Embedding, Linear, Norm, Raw
from memcalc.blocks.image import Axes, Positions, Untokened, Windows
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.segmenting import Unread
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("sam")
def sam(c: Dimensions) -> Model:
    """The encoder's map, points and masks as prompts, a two-way transformer between both."""
    if not class_name(c).endswith("Model"):
        raise unknown_class(c)
    v = c.vision_config
    shared = Raw("shared_image_embedding.positional_embedding", (2, v.num_pos_feats))
    later = Unread("", (_prompts(c), tower(c.mask_decoder_config, "mask_decoder")))
    body, untold = (
        sequence(tower(v, "vision_encoder"), shared, later),
        "the decoder of masks, behind the image encoder,",
    )
    return Model(body, "encoder", image=image(v), unread=untold)


@architecture("sam_vision_model", "got_ocr2_vision")
def sam_vision(c: Dimensions) -> Model:
    """A ViT on a map, most layers within windows, relative positions along both axes, two convolutions at the end."""
    hidden, patch, side = c.hidden_size, pair(c.patch_size), c.image_size // pair(c.patch_size)[0]
    cut = sequence(Conv("projection", c.num_channels, hidden, patch, patch), name="patch_embed")
    table = Positions("pos_embed", (1, side, side, hidden)) if c.use_abs_pos else None
    local, far = _layer(c, c.window_size), _layer(c, 0)
    layers: list[Block] = [far if i in c.global_attn_indexes else local for i in range(c.num_hidden_layers)]
    wide = c.output_channels
    neck = sequence(
        Axes("", (0, 3, 1, 2)), Conv("conv1", hidden, wide, (1, 1), bias=False), map_norm("layer_norm1", wide),
        Conv("conv2", wide, wide, (3, 3), bias=False, padding=1), map_norm("layer_norm2", wide), name="neck",
    )  # fmt: skip
    name = "vision_encoder" if class_name(c) == "SamVisionModel" else ""
    body = sequence(cut, Untokened(""), table, stack("layers", layers), neck, name=name)
    return made(c, sequence(body) if name else body, "encoder")


def map_norm(name: str, width: int) -> Norm:
    """A layer norm over the channels of a map."""
    return Norm(name, width, "layer", "channels-first")


def _layer(c: Dimensions, window: int) -> Sequence:
    """x + attention(norm(x)) within windows of `window`² tokens (0: everywhere), then the MLP."""
    hidden, heads = c.hidden_size, c.num_attention_heads
    side = window or c.image_size // pair(c.patch_size)[0]
    tables = tuple(Param(f"rel_pos_{axis}", (2 * side - 1, hidden // heads)) for axis in "hw") if c.use_rel_pos else ()
    mixer = Attention(
        "attn", heads, heads, hidden // heads, qkv=Linear("qkv", hidden, 3 * hidden, bool(c.qkv_bias)),
        out=Linear("proj", hidden, hidden, bias=True), extra=tables, causal=False, scores_bias=bool(c.use_rel_pos),
        formula="sam", dropout=float(c.attention_dropout), eager_only=c.traits.eager_only,
    )  # fmt: skip
    first, second = layer_norms(c, "layer_norm1", "layer_norm2")
    feed = mlp(c, c.get("mlp_dim") or int(hidden * c.mlp_ratio), names=("lin1", "lin2"))
    inside = Windows("", (mixer,), window) if window else mixer
    return sequence(residual(first, inside), residual(second, feed))


def _prompts(c: Dimensions) -> Sequence:
    """The prompt encoder; its positions are the image encoder's."""
    shape, shared = (2, c.vision_config.num_pos_feats), "shared_image_embedding.positional_embedding"
    tied = Raw("shared_embedding.positional_embedding", shape, tied_to=shared)
    return sequence(tied, *tower(c.prompt_encoder_config, "").blocks, name="prompt_encoder")


@architecture("sam_prompt_encoder")
def sam_prompts(c: Dimensions) -> Model:
    """Points as embeddings of their kind, masks through three convolutions."""
    kinds = stack("point_embed", [Embedding("", 1, c.hidden_size)] * c.num_point_embeddings)
    lone = (Embedding(name, 1, c.hidden_size) for name in ("no_mask_embed", "not_a_point_embed"))
    return Model(sequence(mask_convolutions(c), kinds, *lone), "image")


def mask_convolutions(c: Dimensions) -> Sequence:
    """Of a mask [batch, 1, 4 h, 4 w] to states [batch, hidden, h, w]."""
    few, many, act = c.mask_input_channels // 4, c.mask_input_channels, Activation("", c.hidden_act)
    return sequence(
        Conv("conv1", 1, few, (2, 2), 2), map_norm("layer_norm1", few), act, Conv("conv2", few, many, (2, 2), 2),
        map_norm("layer_norm2", 4 * few), act, Conv("conv3", many, c.hidden_size, (1, 1)), name="mask_embed",
    )  # fmt: skip


@architecture("sam_mask_decoder")
def sam_decoder(c: Dimensions) -> Model:
    """Tokens and map attend to each other twice; the map enlarged four times; a mask and a score per mask token."""
    hidden, count = c.hidden_size, c.num_multimask_outputs + 1
    last = two_way(c, "final_attn_token_to_image", c.attention_downsample_rate)
    layers = stack("layers", [_two_way_layer(c)] * c.num_hidden_layers)
    grow = (Conv("upscale_conv1", hidden, hidden // 4, (2, 2), 2, transposed=True), map_norm("upscale_layer_norm", hidden // 4),
            Activation("", "gelu"), Conv("upscale_conv2", hidden // 4, hidden // 8, (2, 2), 2, transposed=True))  # fmt: skip
    body = sequence(
        Embedding("iou_token", 1, hidden), Embedding("mask_tokens", count, hidden),
        sequence(layers, residual(last), Norm("layer_norm_final_attn", hidden, "layer"), name="transformer"), *grow,
        stack("output_hypernetworks_mlps", [deep("", hidden, hidden, hidden // 8, 3)] * count),
        deep("iou_prediction_head", hidden, c.iou_head_hidden_dim, count, c.iou_head_depth),
    )  # fmt: skip
    return Model(body, "image")


def _two_way_layer(c: Dimensions) -> Sequence:
    """Tokens to themselves, tokens to map, MLP, map to tokens; post-norm."""
    hidden, less = c.hidden_size, c.attention_downsample_rate
    up, down = Linear("lin1", hidden, c.mlp_dim, bias=True), Linear("lin2", c.mlp_dim, hidden, bias=True)
    branches = (
        two_way(c, "self_attn", 1), two_way(c, "cross_attn_token_to_image", less),
        Mlp("mlp", up, down, activation=c.hidden_act, width=c.mlp_dim), two_way(c, "cross_attn_image_to_token", less),
    )  # fmt: skip
    norms = (Norm(f"layer_norm{i}", hidden, "layer") for i in range(1, 5))
    return sequence(*(part for branch, norm in zip(branches, norms, strict=True) for part in (residual(branch), norm)))


def two_way(c: Dimensions, name: str, less: int, last: str = "out_proj") -> Attention:
    """Attention in a space `less` times narrower."""
    hidden, inner, heads = c.hidden_size, c.hidden_size // less, c.num_attention_heads
    q, k, v = (Linear(f"{x}_proj", hidden, inner, bias=True) for x in "qkv")
    out = Linear(last, inner, hidden, bias=True)
    return Attention(name, heads, heads, inner // heads, q, k, v, out=out, causal=False, cross=name != "self_attn")


def deep(name: str, inputs: int, hidden: int, outputs: int, depth: int) -> Sequence:
    """`depth` linear layers with relu in between."""
    middle = stack("layers", [sequence(Linear("", hidden, hidden, bias=True), Activation("", "relu"))] * (depth - 2))
    return sequence(Linear("proj_in", inputs, hidden, bias=True), Activation("", "relu"), middle,
                    Linear("proj_out", hidden, outputs, bias=True), name=name)  # fmt: skip
