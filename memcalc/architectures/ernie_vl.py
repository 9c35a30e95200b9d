"""ERNIE 4.5 VL: a tower of patches, a resampler, and a mixture whose experts are of words or of images (Baidu 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, decoder, gated_mlp, interleaved, pre_norm_layer, rms
from memcalc.architectures.experts import mixture, per_layer, router, stacked_experts
from memcalc.architectures.multimodal import image_text, tied, tower
from memcalc.architectures.vision import encoder_layer, layer_norms, mlp, pair
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Param, Sequence, Unused, repeat, sequence
from memcalc.blocks.basic import Activation, Linear, Norm
from memcalc.blocks.multimodal import Grid, GridRotary, Images
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.blocks.mlp import Router
    from memcalc.dimensions import Dimensions


@architecture("ernie4_5_vl_moe")
def ernie4_5_vl_moe(c: Dimensions) -> Model:
    """Squares of four patches through two layers, those of two frames through two more, a linear layer, a norm."""
    v, hidden = c.vision_config, c.text_config.hidden_size
    wide = v.hidden_size * v.spatial_merge_size**2
    parts = (
        _two_layers("spatial_linear", wide, wide), _two_layers("temporal_linear", wide * v.temporal_merge_size, wide),
        Linear("mlp", wide, hidden, bias=True), rms("after_norm", hidden),
    )  # fmt: skip
    cut = Grid(pair(v.patch_size)[0], v.spatial_merge_size)
    images = Images(
        "", (tower(v, "vision_tower"), Sequence("resampler_model", parts)), grid=cut, axes=True, returned=False
    )
    return image_text(c, images, tower(c.text_config, "language_model"), tie=tied(c))


def _two_layers(name: str, inputs: int, width: int) -> Sequence:
    first, second = Linear("fc1", inputs, width, bias=True), Linear("fc2", width, width, bias=True)
    return sequence(first, Activation("", "gelu"), second, Norm("ln", width, "layer"), name=name)


@architecture("ernie4_5_vl_moe_vision")
def ernie4_5_vl_moe_vision(c: Dimensions) -> Model:
    """A linear layer of every patch's pixels, Qwen2-VL's layers, a norm."""
    hidden, heads = c.hidden_size, c.num_heads
    cut = sequence(Linear("proj", c.in_channels * pair(c.patch_size)[0] ** 2, hidden), name="patch_embed")
    mixer = Attention(
        "attn", heads, heads, hidden // heads, qkv=Linear("qkv", hidden, 3 * hidden, bias=True),
        out=Linear("proj", hidden, hidden, bias=True), rotary_dim=hidden // heads, causal=False, formula="qwen-vision",
    )  # fmt: skip
    layers = repeat("blocks", c.depth, encoder_layer(mixer, mlp(c), layer_norms(c, "norm1", "norm2")))
    return Model(sequence(cut, GridRotary("", hidden // heads), layers, Norm("ln", hidden, "layer")), "encoder")


@architecture("ernie4_5_vl_moe_text")
def ernie4_5_vl_moe_text(c: Dimensions) -> Model:
    """ERNIE 4.5's layers with two mixtures each, of which a batch of text alone meets the first, and one shared MLP."""
    bias = bool(c.use_bias)
    mixer = attention(c.but(position_axes=3), bias=bias, dropout=0.0, rotation="spread", rotary_fp32=True)
    feeds = {"sparse": _mixture(c), "dense": gated_mlp(c, bias=bias)}
    kinds = per_layer(c, "mlp_layer_types", ["dense", *["sparse"] * (c.num_hidden_layers - 1)])
    return decoder(c, interleaved("layers", kinds, lambda kind: pre_norm_layer(c, mixer, feeds[kind])))


def _mixture(c: Dimensions) -> Block:
    width, other = c.get("moe_intermediate_size") or (1536, 512)  # Ernie4_5_VLMoeTextConfig.__post_init__
    beside = c.moe_num_shared_experts
    shared = gated_mlp(c, "shared_experts", width * beside, bias=bool(c.use_bias)) if beside else None
    words = mixture(c, _router(c, "text_moe.gate"), width, shared=shared, shared_first=True, prefix="text_moe.")
    seen = Unused("mlp.vision_moe", (_router(c, "gate"), stacked_experts(c, c.moe_num_experts, other)))
    return sequence(words, seen)


def _router(c: Dimensions, name: str) -> Router:
    frozen = Param("moe_statics.e_score_correction_bias", (1, c.moe_num_experts), trainable=False, dtype="fp32")
    chosen = c.but(num_experts_per_tok=c.moe_k)
    return router(
        chosen,
        c.moe_num_experts,
        name,
        fp32=True,
        stored="fp32",
        cast_back=True,
        formula="ernie4_5_moe",
        extra=(frozen,),
    )
