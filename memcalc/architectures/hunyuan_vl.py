"""HunyuanVL and HunyuanOCR: a tower for images of any size, a convolutional merger, Hunyuan's dense decoder (Tencent 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, decoder, gated_mlp, head_dim, pre_norm_layer, rms
from memcalc.architectures.multimodal import image_text, tied, tower
from memcalc.architectures.vision import attention as vision_attention
from memcalc.architectures.vision import encoder_layer, layer_norms, mlp
from memcalc.blocks.base import Sequence, repeat, sequence
from memcalc.blocks.basic import Activation, Conv, Embedding, Linear, Raw
from memcalc.blocks.multimodal import Grid, Images
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("hunyuan_vl")
def hunyuan_vl(c: Dimensions) -> Model:
    """The tower's tokens in place of the text's; rotary positions on four axes."""
    v = c.vision_config.but(text_hidden_size=c.text_config.hidden_size)
    images = Images("", (tower(v, "vision_tower"),), grid=Grid(v.patch_size, v.spatial_merge_size), axes=True)
    return image_text(c, images, tower(c.text_config, "language_model"), tie=tied(c))


@architecture("hunyuan_vl_text")
def hunyuan_vl_text(c: Dimensions) -> Model:
    """Hunyuan's dense decoder, rotated in fp32."""
    q, k = rms("query_layernorm", head_dim(c)), rms("key_layernorm", head_dim(c))
    mixer = attention(
        c.but(position_axes=4), bias=bool(c.attention_bias), q_norm=q, k_norm=k, rotation="fp32-all", formula="hunyuan"
    )
    return decoder(c, repeat("layers", c.num_hidden_layers, pre_norm_layer(c, mixer, gated_mlp(c))))


@architecture("hunyuan_vl_vision")
def hunyuan_vl_vision(c: Dimensions) -> Model:
    """Patches, a table stretched to each image, SigLIP's layers, squares merged by convolutions, marks around every image."""
    hidden, kernel, side = c.hidden_size, (c.patch_size, c.patch_size), c.max_image_size // c.patch_size
    cut = Conv("patch_embedding", c.num_channels, hidden, kernel, kernel)
    start = sequence(cut, Embedding("position_embedding", side**2 + 1, hidden), name="embeddings")
    mixer = vision_attention(c, "self_attn")
    layer = encoder_layer(mixer, mlp(c), layer_norms(c, "layer_norm1", "layer_norm2"))
    return Model(sequence(start, repeat("layers", c.num_hidden_layers, layer), _merger(c)), "encoder")


def _merger(c: Dimensions) -> Sequence:
    hidden, text, merge = c.hidden_size, c.text_hidden_size, c.spatial_merge_size
    squares = Conv("proj_conv", hidden, 2 * hidden, (merge, merge), (merge, merge))
    marks = [Raw(f"image_{name}", (text,)) for name in ("begin", "end", "sep")]
    return sequence(
        Raw("image_newline", (4 * hidden,)), *marks, rms("before_rms", hidden), squares, Activation("", c.hidden_act),
        Conv("proj_out", 2 * hidden, 4 * hidden, (1, 1)), Linear("mlp", 4 * hidden, text, bias=True), rms("after_rms", text),
        name="patch_merger",
    )  # fmt: skip
