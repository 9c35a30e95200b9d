"""Towers that take images of any size as rows of patches, as Qwen2-VL's does, before language models of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture, decoder
from memcalc.architectures.multimodal import image_text, tied, tower
from memcalc.architectures.qwen_vl import images as row_images
from memcalc.architectures.vision import attention, encoder_layer, grid, layer_norms, mlp, pair
from memcalc.blocks.base import repeat, sequence
from memcalc.blocks.basic import Activation, Conv, Linear, Norm
from memcalc.blocks.image import MergeNeighbours
from memcalc.blocks.multimodal import ConvTokens, Grid, GridPositions, GridRotary, Images
from memcalc.blocks.towers import AxesRotary, EachGrid, ShrunkGrid, Squares
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.blocks.base import Block, Sequence
    from memcalc.dimensions import Dimensions


@architecture("exaone4_5")
def exaone4_5(c: Dimensions) -> Model:
    """Qwen2.5-VL's tower with heads in groups, before EXAONE 4, whose tokens have one place each (LG AI Research 2026)."""
    seen = row_images(c, axes=False)
    return image_text(c, seen, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings))


@architecture("video_llama_3")
def video_llama_3(c: Dimensions) -> Model:
    """SigLIP's layers with rotary positions, their output shrunk and through two layers, before Qwen 2.5 (Zhang et al. 2025)."""
    wide, hidden = c.vision_config.hidden_size, c.text_config.hidden_size
    first, second = Linear("0", wide, hidden, bias=True), Linear("2", hidden, hidden, bias=True)
    project = sequence(sequence(first, Activation("", "gelu"), second, name="readout"), name="projector")
    seen = _images(c, tower(c.vision_config, "vision_model"), project, merge=1, listed=True, asks=True)
    return image_text(c, seen, tower(c.text_config, "language_model"), tie=tied(c))


@architecture("video_llama_3_vision")
def video_llama_3_vision(c: Dimensions) -> Model:
    """Patches, rotary tables, SigLIP's layers, a norm, a map of every image as large as its tokens are."""
    begin = sequence(_patches(c), name="embeddings")
    rotary, last = (
        GridRotary("", c.hidden_size // c.num_attention_heads),
        Norm("post_layernorm", c.hidden_size, "layer"),
    )
    return Model(sequence(begin, rotary, sequence(_layers(c), name="encoder"), last, ShrunkGrid("")), "encoder")


@architecture("paddleocr_vl")
def paddleocr_vl(c: Dimensions) -> Model:
    """The same layers and a stretched table, squares of four through two layers, before Ernie 4.5 (Baidu 2025)."""
    v, hidden = c.vision_config, c.text_config.hidden_size
    wide = v.hidden_size * v.spatial_merge_size**2
    layers = (
        Norm("pre_norm", v.hidden_size, "layer"), Squares("", v.spatial_merge_size),
        Linear("linear_1", wide, wide, bias=True), Activation("", "gelu"), Linear("linear_2", wide, hidden, bias=True),
    )  # fmt: skip
    seen = _images(
        c, tower(v, "visual"), EachGrid("projector", layers), merge=v.spatial_merge_size, listed=True, axes=True
    )
    return image_text(c, seen, tower(c.text_config, "language_model"), tie=tied(c))


@architecture("paddleocr_vl_vision")
def paddleocr_vl_vision(c: Dimensions) -> Model:
    """Patches, a table stretched to each image, rotary tables, SigLIP's layers, a norm."""
    begin = sequence(_patches(c), GridPositions("position_embedding", grid(c), c.hidden_size), name="embeddings")
    rotary, last = (
        GridRotary("", c.hidden_size // c.num_attention_heads),
        Norm("post_layernorm", c.hidden_size, "layer"),
    )
    body = sequence(begin, rotary, sequence(_layers(c), name="encoder"), last, name="vision_model")
    return Model(sequence(body), "encoder")


@architecture("paddleocr_vl_text")
def paddleocr_vl_text(c: Dimensions) -> Model:
    """Ernie 4.5's decoder, rotated by halves on three axes."""
    mixer = decoder.attention(c.but(position_axes=3), bias=bool(c.use_bias), dropout=0.0)
    layer = decoder.pre_norm_layer(c, mixer, decoder.gated_mlp(c, bias=bool(c.use_bias)))
    return decoder.decoder(c, repeat("layers", c.num_hidden_layers, layer))


@architecture("minimax_m3_vl")
def minimax_m3_vl(c: Dimensions) -> Model:
    """CLIP's layers rotated on three axes, each patch through two layers, squares of four through two more (MiniMax 2026)."""
    v, hidden, middle = c.vision_config, c.text_config.hidden_size, c.projector_hidden_size
    merged, act = hidden * v.spatial_merge_size**2, Activation("", "gelu")
    first, second = Linear("linear_1", v.hidden_size, middle, bias=True), Linear("linear_2", middle, hidden, bias=True)
    third, last = (
        Linear("merge_linear_1", merged, middle, bias=True),
        Linear("merge_linear_2", middle, hidden, bias=True),
    )
    merge = MergeNeighbours("", v.spatial_merge_size)
    project = sequence(first, act, second, merge, third, act, last, name="multi_modal_projector")
    cut = Grid(v.patch_size, v.spatial_merge_size, v.temporal_patch_size)
    seen = Images(
        "", (tower(v, "vision_tower"), project), scattered=True, grid=cut, asks=False, listed=True, returned=False
    )
    return image_text(c, seen, tower(c.text_config, "language_model"), tie=tied(c))


@architecture("minimax_m3_vl_vision")
def minimax_m3_vl_vision(c: Dimensions) -> Model:
    """Patches of two frames, a norm, CLIP's layers, which see all frames of a video at once."""
    kernel = (c.temporal_patch_size, c.patch_size, c.patch_size)
    conv = Conv("proj", c.num_channels, c.hidden_size, kernel, kernel, bias=False)
    rotary = AxesRotary("", c.hidden_size // c.num_attention_heads)
    norm = Norm("pre_layrnorm", c.hidden_size, "layer")
    return Model(
        sequence(sequence(ConvTokens("", conv), name="embeddings"), rotary, norm, _layers(c, "minimax-vision")),
        "encoder",
    )


def _images(c: Dimensions, seen: Sequence, project: Block, *, merge: int, **more: Any) -> Images:  # noqa: ANN401 - of Images
    cut = Grid(pair(c.vision_config.patch_size)[0], merge)
    more = {"asks": False, "returned": False, **more}
    return Images("", (seen, project), scattered=True, grid=cut, **more)


def _patches(c: Dimensions) -> ConvTokens:
    kernel = pair(c.patch_size)
    return ConvTokens("", Conv("patch_embedding", c.num_channels, c.hidden_size, kernel, kernel))


def _layers(c: Dimensions, formula: str = "qwen-vision") -> Block:
    dim = c.hidden_size // c.num_attention_heads
    mixer = attention(c, "self_attn", out="out_proj", rotary_dim=dim, formula=formula)
    norms = layer_norms(c, "layer_norm1", "layer_norm2")
    return repeat("layers", c.num_hidden_layers, encoder_layer(mixer, mlp(c), norms))
