"""Image towers before mixtures of experts: Step 3.7 and Kimi K2.5."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.multimodal import image_text, tower
from memcalc.architectures.vision import (
    attention,
    class_name,
    encoder_layer,
    grid,
    image,
    layer_norms,
    layer_scales,
    mlp,
    pair,
    patches,
)
from memcalc.blocks.base import repeat, sequence
from memcalc.blocks.basic import Activation, Conv, Linear, Norm
from memcalc.blocks.image import Flatten, MergeNeighbours
from memcalc.blocks.multimodal import ConvTokens, Grid, GridRotary, Images
from memcalc.blocks.towers import EachImage, GatheredPositions, MeanOfFrames, SquareMap, SquareRotary, WholeTable
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("step3p7")
def step3p7(c: Dimensions) -> Model:
    """A ViT whose map is halved twice, a projection, Step's mixture of experts."""
    v = _renamed(c.vision_config)
    project = Linear("multi_modal_projector", 4 * v.hidden_size, c.text_config.hidden_size, bool(c.projector_bias))
    parts = tower(v, "vision_model"), project, EachImage("", ())
    side = -(-pair(v.image_size)[0] // pair(v.patch_size)[0] // 4)
    images = Images("", parts, image(v), side**2, scattered=True)
    tie = bool(c.get("tie_word_embeddings"))
    if class_name(c).endswith("ForCausalLM"):  # the name in hub files; transformers has the class with images only
        c = c.but(architectures=["Step3p7ForConditionalGeneration"])
    return image_text(c, images, tower(c.text_config, "language_model"), tie=tie)


@architecture("step3p5_vision")
def step_vision(c: Dimensions) -> Model:
    """ViT with LayerScale and rotary positions besides a learned table; two strided convolutions at the end."""
    c = _renamed(c)
    hidden = c.hidden_size
    places, dim = WholeTable("position_embedding", grid(c), hidden), hidden // c.num_attention_heads
    start = sequence(patches(c, "patch_embedding", bias=False), places, name="embeddings")
    mixer = attention(c, "self_attn", out="out_proj", rotary_dim=dim, rotation="own", formula="step-vision")
    norms, scales = layer_norms(c, "layernorm_before", "layernorm_after"), layer_scales(c, "lambda_1", "lambda_2")
    layer = encoder_layer(mixer, mlp(c, int(hidden * c.mlp_ratio)), norms, scales)
    shrink = (Conv(f"downsampler{i}", i * hidden, 2 * i * hidden, (3, 3), 2, padding=1) for i in (1, 2))
    layers = repeat("layers", c.num_hidden_layers, layer)
    norm, side = Norm("pre_layernorm", hidden, "layer"), pair(c.image_size)[0] // c.patch_size
    body = sequence(start, norm, SquareRotary("", dim), layers, SquareMap("", side), *shrink, Flatten(""))
    return Model(body, "encoder", image=image(c))


_OLD_NAMES = {"width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}


def _renamed(c: Dimensions) -> Dimensions:
    """Today's names for the keys of hub files (Step3p7VisionConfig.__post_init__)."""
    return c.but(**{new: c[old] for old, new in _OLD_NAMES.items() if old in c})


@architecture("kimi_k25")
def kimi_k25(c: Dimensions) -> Model:
    """MoonViT's tokens merged four to one, through a two-layer projector, before DeepSeek-V3's architecture."""
    v, text = c.vision_config, c.text_config
    rows, columns = v.merge_kernel_size
    wide = v.hidden_size * rows * columns
    into, out = Linear("in_proj", wide, wide, bias=True), Linear("out_proj", wide, text.hidden_size, bias=True)
    norm = Norm("pre_norm", c.projection_hidden_size, "layer")
    project = sequence(norm, MergeNeighbours("", rows), into, Activation("", "gelu"), out, name="mm_projector")
    grid = Grid(pair(v.patch_size)[0], rows, up=True)
    images = Images("", (tower(v, "vision_tower"), project), grid=grid, scattered=True, listed=True, returned=False)
    return image_text(c, images, tower(text, "language_model"), tie=bool(c.tie_word_embeddings))


@architecture("kimi_k25_vision")
def kimi_vision(c: Dimensions) -> Model:
    """A ViT for images and frames of any size: a learned table stretched to each, and rotary positions."""
    hidden, kernel = c.hidden_size, pair(c.patch_size)
    table = GatheredPositions("pos_emb.position_embeddings", (c.pos_emb_height, c.pos_emb_width, hidden))
    start = sequence(ConvTokens("", Conv("proj", 3, hidden, kernel, kernel)), table, name="patch_embed")
    dim = hidden // c.num_attention_heads
    mixer = attention(c, "attn", out="proj", rotary_dim=dim, rotation="own", formula="kimi-vision")
    layer = encoder_layer(mixer, mlp(c), layer_norms(c, "norm1", "norm2"))
    layers = repeat("layers", c.num_hidden_layers, layer)
    end = Norm("final_layernorm", hidden, "layer"), MeanOfFrames("", c.merge_kernel_size[0])
    return Model(sequence(start, GridRotary("", dim), layers, *end), "encoder")
