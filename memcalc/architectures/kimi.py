"""Kimi-K2.5: a ViT of its own (MoonViT) and a projector before DeepSeek-V3's decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.multimodal import image_text, tower
from memcalc.architectures.vision import attention, encoder_layer, layer_norms, mlp, pair
from memcalc.blocks.base import repeat, sequence
from memcalc.blocks.basic import Activation, Conv, Linear, Norm
from memcalc.blocks.image import Flatten, MergeNeighbours, Positions
from memcalc.blocks.multimodal import Images
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("kimi_k25")
def kimi_k25(c: Dimensions) -> Model:
    """Four neighbouring patches, normed, become one token through two linears (transformers, Kimi_K25Model)."""
    v, inner = c.vision_config, c.text_config.hidden_size
    height, width = v.merge_kernel_size
    wide = v.hidden_size * height * width
    projector = sequence(
        Norm("pre_norm", c.projection_hidden_size, "layer"), MergeNeighbours("", height),
        Linear("in_proj", wide, wide, bias=True), Activation("", "gelu"), Linear("out_proj", wide, inner, bias=True),
        name="mm_projector",
    )  # fmt: skip
    images = Images("", (tower(v, "vision_tower"), projector))
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings))


@architecture("kimi_k25_vision")
def kimi_k25_vision(c: Dimensions) -> Model:
    """A pre-norm ViT with learned positions that are resampled to each image's grid, and rotary ones."""
    kernel = pair(c.patch_size)
    table = Positions("pos_emb.position_embeddings", (c.pos_emb_height, c.pos_emb_width, c.hidden_size))
    cut = sequence(Conv("proj", 3, c.hidden_size, kernel, kernel), Flatten(""), table, name="patch_embed")
    mixer = attention(c, "attn", out="proj", rotary_dim=c.hidden_size // c.num_attention_heads)
    layer = encoder_layer(mixer, mlp(c), layer_norms(c, "norm1", "norm2"))
    end = Norm("final_layernorm", c.hidden_size, "layer")
    return Model(sequence(cut, repeat("layers", c.num_hidden_layers, layer), end), "encoder")
