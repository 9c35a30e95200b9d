"""Idefics 2: an image's tokens resampled to a few by learned latents, in front of a language model (Laurençon et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.multimodal import image_text, tower
from memcalc.architectures.vision import attention, encoder_layer, grid, image, layer_norms, made, mlp, patches
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Stack, repeat, residual, sequence
from memcalc.blocks.basic import Embedding, Linear, Norm
from memcalc.blocks.image import Embedded
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.multimodal import Images
from memcalc.blocks.querying import LatentLayer, Resampled

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("idefics2")
def idefics2(c: Dimensions) -> Model:
    """SigLIP's tokens through a gated MLP and a perceiver resampler; Mistral on top."""
    v, t = c.vision_config, c.text_config
    project = _gated("modality_projection", v.hidden_size, t.intermediate_size, t.hidden_size, t.hidden_act)
    connector = sequence(project, _resampler(c), name="connector")
    images = Images("", (tower(v, "vision_model"), connector), image(v), c.perceiver_config.resampler_n_latents,
                    scattered=True, listed=True, copied=True, asks=False)  # fmt: skip
    return image_text(c, images, tower(t, "text_model"), tie=bool(c.tie_word_embeddings))


@architecture("idefics2_vision")
def idefics2_vision(c: Dimensions) -> Model:
    """SigLIP's tower without its pooling head, every patch at a place of its own."""
    places = Embedding("position_embedding", grid(c), c.hidden_size, index="token-positions")
    start = sequence(patches(c, "patch_embedding", embeds=False), places, Embedded(""), name="embeddings")
    layer = encoder_layer(
        attention(c, "self_attn", out="out_proj"), mlp(c), layer_norms(c, "layer_norm1", "layer_norm2")
    )
    layers = sequence(repeat("layers", c.num_hidden_layers, layer), name="encoder")
    return made(c, sequence(start, layers, Norm("post_layernorm", c.hidden_size, "layer")), "encoder")


def _resampler(c: Dimensions) -> Resampled:
    """Latents that attend to the image's tokens and themselves, layer by layer."""
    p, width = c.perceiver_config, c.text_config.hidden_size
    layers = Stack("layers", (_latent_layer(p, width),) * p.resampler_depth, recompute="never")
    return Resampled("perceiver_resampler", (layers, Norm("norm", width, "rms")), p.resampler_n_latents, width)


def _latent_layer(p: Dimensions, width: int) -> LatentLayer:
    heads, few, dim = p.resampler_n_heads, p.num_key_value_heads, p.resampler_head_dim
    mixer = Attention(
        "self_attn", heads, few, dim, q=Linear("q_proj", width, heads * dim), k=Linear("k_proj", width, few * dim),
        v=Linear("v_proj", width, few * dim), out=Linear("o_proj", heads * dim, width), causal=False, cross=True,
        dropout=float(p.attention_dropout),
    )  # fmt: skip
    feed = residual(
        Norm("post_attention_layernorm", width, "rms"), _gated("mlp", width, 4 * width, width, p.hidden_act)
    )
    norms = Norm("input_latents_norm", width, "rms"), Norm("input_context_norm", width, "rms")
    return LatentLayer("", *norms, mixer, feed)


def _gated(name: str, inputs: int, width: int, outputs: int, activation: str) -> Mlp:
    gate, up = Linear("gate_proj", inputs, width), Linear("up_proj", inputs, width)
    return Mlp(name, up, Linear("down_proj", width, outputs), gate, activation=activation, width=width)
