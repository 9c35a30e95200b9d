"""Image encoders that come with a language model: Pixtral's, InternVL's, Idefics'."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.clip import layers as clip_layers
from memcalc.architectures.decoder import gated_mlp
from memcalc.architectures.vision import (
    attention,
    dropout,
    embeddings,
    grid,
    layer_scales,
    made,
    mask_token,
    mlp,
    pair,
    patches,
)
from memcalc.blocks.base import repeat, residual, sequence
from memcalc.blocks.basic import Conv, Embedding, Norm
from memcalc.blocks.image import Embedded
from memcalc.blocks.multimodal import GridRotary, PatchRow, RowMask

if TYPE_CHECKING:
    from memcalc.blocks.basic import NormKind
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("pixtral")
def pixtral(c: Dimensions) -> Model:
    """A ViT like a Llama: RMSNorm, rotary positions of two axes, gated MLPs, images of any size."""
    dim = c.hidden_size // c.num_attention_heads
    mixer = attention(c.but(head_dim=dim), "attention", bias=False, out_bias=False, rotary_dim=dim)
    feed = gated_mlp(c, "feed_forward")
    layer = sequence(residual(_rms(c, "attention_norm"), mixer), residual(_rms(c, "ffn_norm"), feed))
    layers = sequence(repeat("layers", c.num_hidden_layers, layer), name="transformer")
    kernel = pair(c.patch_size)
    conv = Conv("patch_conv", c.get("num_channels") or 3, c.hidden_size, kernel, kernel, bias=False, embeds=True)
    start = conv, PatchRow(""), _rms(c, "ln_pre"), GridRotary("", dim, wide=False), RowMask("")
    return made(c, sequence(*start, layers), "encoder")


def _rms(c: Dimensions, name: str) -> Norm:
    return Norm(name, c.hidden_size, "rms")


@architecture("internvl_vision")
def internvl_vision(c: Dimensions) -> Model:
    """ViT with LayerScale, without biases on queries, keys and values."""
    mask = (mask_token(c, 1, 1),) if c.use_mask_token else ()
    absolute = c.use_absolute_position_embeddings
    begin = embeddings(c, prefix={"cls_token": 1}, extra=mask, positions=absolute, looked=1)
    kind: NormKind = "rms" if c.norm_type == "rms_norm" else "layer"
    norms = Norm("layernorm_before", c.hidden_size, kind), Norm("layernorm_after", c.hidden_size, kind)
    mixer = attention(c, "attention", bias=bool(c.attention_bias), out="projection_layer", softmax="scores")
    if c.use_qk_norm:
        mixer = replace(mixer, q_norm=_rms(c, "q_norm"), k_norm=_rms(c, "k_norm"))
    mixer = replace(mixer, out_dropout=float(c.projection_dropout))
    scales = layer_scales(c, "lambda_1", "lambda_2")
    layer = sequence(residual(norms[0], mixer, scales[0]), residual(norms[1], mlp(c), dropout(c), scales[1]))
    end = None if c.use_mean_pooling else Norm("layernorm", c.hidden_size, "layer")
    return made(
        c, sequence(begin, sequence(repeat("layer", c.num_hidden_layers, layer), name="encoder"), end), "encoder"
    )


@architecture("idefics3_vision", "smolvlm_vision")
def idefics3_vision(c: Dimensions) -> Model:
    """SigLIP's tower without its pooling head."""
    places = Embedding("position_embedding", grid(c), c.hidden_size, index="token-positions")
    start = sequence(patches(c, "patch_embedding", embeds=False), places, Embedded(""), name="embeddings")
    return made(c, sequence(start, clip_layers(c), Norm("post_layernorm", c.hidden_size, "layer")), "encoder")
