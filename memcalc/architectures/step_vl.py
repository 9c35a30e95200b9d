"""Step 3.7: a ViT whose map two strided convolutions shrink, before Step's text tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.multimodal import image_text, tower
from memcalc.architectures.vision import attention, encoder_layer, grid, layer_norms, layer_scales, made, mlp, patches
from memcalc.blocks.base import repeat, sequence
from memcalc.blocks.basic import Conv, Embedding, Linear, Norm
from memcalc.blocks.image import Flatten, Unflatten
from memcalc.blocks.multimodal import Images

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("step3p7")
def step3p7(c: Dimensions) -> Model:
    """One linear maps what is left of the image to the text's width (transformers, Step3p7Model)."""
    v, inner = c.vision_config, c.text_config.hidden_size
    projector = Linear("multi_modal_projector", v.hidden_size * 4, inner, bool(c.projector_bias))
    images = Images("", (tower(v, "vision_model"), projector))
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.get("tie_word_embeddings")))


@architecture("step3p5_vision")
def step3p5_vision(c: Dimensions) -> Model:
    """A pre-norm ViT with LayerScale, learned and rotary positions; each convolution doubles the channels."""
    hidden, count = c.hidden_size, c.num_hidden_layers
    table = Embedding("position_embedding", grid(c), hidden, index="positions")
    start = sequence(patches(c, "patch_embedding", bias=False), table, name="embeddings")
    mixer = attention(c, "self_attn", out="out_proj", rotary_dim=hidden // c.num_attention_heads)
    norms, scales = layer_norms(c, "layernorm_before", "layernorm_after"), layer_scales(c, "lambda_1", "lambda_2")
    layer = encoder_layer(mixer, mlp(c, int(hidden * c.mlp_ratio)), norms, scales)
    sizes = (("downsampler1", hidden), ("downsampler2", 2 * hidden))
    shrink = [Conv(name, size, 2 * size, (3, 3), 2, padding=1) for name, size in sizes]
    layers, first = repeat("layers", count, layer), Norm("pre_layernorm", hidden, "layer")
    return made(c, sequence(start, first, layers, Unflatten(""), *shrink, Flatten("")), "encoder")
