"""GLM-4V: a ViT of its own before GLM-4's decoder, merged by a convolution and a gated MLP (GLM-V team 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, decoder, fused_gated_mlp, gated_mlp, rms, rotary_dim
from memcalc.architectures.deepseek import dense_then_sparse
from memcalc.architectures.experts import corrected_router
from memcalc.architectures.multimodal import image_text, tied, tower
from memcalc.architectures.vision import pair
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import repeat, residual, sequence
from memcalc.blocks.basic import Activation, Conv, Linear, Norm
from memcalc.blocks.multimodal import ConvTokens, Grid, GridRotary, Images, MergedSquares, SampledPositions
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.blocks.base import Sequence
    from memcalc.dimensions import Dimensions


@architecture("glm4v", "glm46v", "glm4v_moe", "glm_ocr")
def glm4v(c: Dimensions) -> Model:
    """Image tokens in place of the text's; rotary positions on three axes."""
    v = c.vision_config
    grid = Grid(pair(v.patch_size)[0], v.spatial_merge_size, v.temporal_patch_size)
    images = Images("", (tower(v, "visual"),), scattered=True, grid=grid, asks=False, axes=True, returned=False)
    return image_text(c, images, tower(c.text_config, "language_model"), tie=tied(c))


@architecture("glm4v_text")
def glm4v_text(c: Dimensions) -> Model:
    """GLM-4-0414's layers: a norm before and behind each block, biased q, k and v of heads that divide the width."""
    return _text(c, c.but(position_axes=3, head_dim=None), bias=True)


@architecture("glm_ocr_text")
def glm_ocr_text(c: Dimensions) -> Model:
    """The same without biases, of any head size."""
    return _text(c, c.but(position_axes=3), bias=False)


def _text(c: Dimensions, heads: Dimensions, *, bias: bool) -> Model:
    hidden = c.hidden_size
    mixer = attention(heads, bias=bias, out_bias=False, rotary_dim=rotary_dim(c), rotation="pairs-joined")
    layer = sequence(
        residual(rms("input_layernorm", hidden), mixer, rms("post_self_attn_layernorm", hidden)),
        residual(rms("post_attention_layernorm", hidden), fused_gated_mlp(c), rms("post_mlp_layernorm", hidden)),
    )
    return decoder(c, repeat("layers", c.num_hidden_layers, layer))


@architecture("glm4v_moe_text")
def glm4v_moe_text(c: Dimensions) -> Model:
    """GLM-4.5's layers, rotated on three axes."""
    mixer = attention(
        c.but(position_axes=3), bias=bool(c.attention_bias), out_bias=False, rotary_dim=rotary_dim(c, 0.5)
    )
    return decoder(c, dense_then_sparse(c, mixer, corrected_router(c, c.n_routed_experts)))


@architecture("glm4v_vision", "glm4v_moe_vision")
def glm4v_vision(c: Dimensions) -> Model:
    """Patches of two frames, a norm, sampled positions, layers, a convolution of squares, a gated merger."""
    hidden, wide, merge = c.hidden_size, c.out_hidden_size, c.spatial_merge_size
    kernel = (c.temporal_patch_size, *pair(c.patch_size))
    conv = Conv("proj", c.in_channels, hidden, kernel, kernel, looked=1)
    side = c.image_size // pair(c.patch_size)[0]
    squares = Conv("downsample", hidden, wide, (merge, merge), merge)
    body = sequence(
        sequence(ConvTokens("", conv), name="patch_embed"), rms("post_conv_layernorm", hidden),
        GridRotary("", hidden // c.num_heads), SampledPositions("embeddings.position_embedding", side**2, hidden),
        repeat("blocks", c.depth, _layer(c)), rms("post_layernorm", hidden), MergedSquares("", merge, squares), _merger(c),
    )  # fmt: skip
    return Model(body, "encoder")


def _layer(c: Dimensions) -> Sequence:
    """norm1, attn (qkv fused), norm2, a gated MLP."""
    hidden, heads = c.hidden_size, c.num_heads
    mixer = Attention(
        "attn", heads, heads, hidden // heads,
        qkv=Linear("qkv", hidden, 3 * hidden, bool(c.attention_bias)), out=Linear("proj", hidden, hidden),
        rotary_dim=hidden // heads, causal=False, formula="qwen-vision",
        dropout=float(c.attention_dropout),
    )  # fmt: skip
    feed = gated_mlp(c, "mlp", c.out_hidden_size)
    return sequence(residual(rms("norm1", hidden), mixer), residual(rms("norm2", hidden), feed))


@architecture("glm_ocr_vision")
def glm_ocr_vision(c: Dimensions) -> Model:
    """The same without norm and table ahead of its layers; queries and keys are normed, every projection is biased."""
    hidden, wide, merge = c.hidden_size, c.out_hidden_size, c.spatial_merge_size
    kernel = (c.temporal_patch_size, *pair(c.patch_size))
    conv, squares = (
        Conv("proj", c.in_channels, hidden, kernel, kernel, looked=1),
        Conv("downsample", hidden, wide, (merge, merge), merge),
    )
    body = sequence(
        sequence(ConvTokens("", conv), name="patch_embed"), GridRotary("", hidden // c.num_heads),
        repeat("blocks", c.depth, _ocr_layer(c)), rms("post_layernorm", hidden), MergedSquares("", merge, squares),
        _merger(c.but(intermediate_size=wide * c.in_channels)),
    )  # fmt: skip
    return Model(body, "encoder")


def _ocr_layer(c: Dimensions) -> Sequence:
    hidden, heads, bias = c.hidden_size, c.num_heads, bool(c.attention_bias)
    dim = hidden // heads
    mixer = Attention(
        "attn", heads, heads, dim, qkv=Linear("qkv", hidden, 3 * hidden, bias), out=Linear("proj", hidden, hidden, bias),
        q_norm=rms("q_norm", dim), k_norm=rms("k_norm", dim), rotary_dim=dim, causal=False, formula="qwen-vision",
        dropout=float(c.attention_dropout),
    )  # fmt: skip
    feed = gated_mlp(c, "mlp", bias=bias)
    return sequence(residual(rms("norm1", hidden), mixer), residual(rms("norm2", hidden), feed))


def _merger(c: Dimensions) -> Sequence:
    """A linear layer, a norm, GELU, a gated MLP."""
    wide = c.out_hidden_size
    first, norm = Linear("proj", wide, wide), Norm("post_projection_norm", wide, "layer")
    feed = gated_mlp(c.but(hidden_size=wide), "", c.intermediate_size)
    return sequence(first, norm, Activation("", "gelu"), feed, name="merger")
