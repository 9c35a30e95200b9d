"""Llama 4 with its image tower (Meta 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture, model_of
from memcalc.architectures.multimodal import tower
from memcalc.architectures.vision import (
    attention,
    class_name,
    encoder_layer,
    grid,
    image,
    layer_norms,
    mlp,
    pair,
    unknown_class,
)
from memcalc.blocks.base import Sequence, repeat, sequence
from memcalc.blocks.basic import Activation, Dropout, Linear, Norm
from memcalc.blocks.image import MergeNeighbours, Positions, Prefix
from memcalc.blocks.multimodal import Images
from memcalc.blocks.towers import ComplexRotary, UnfoldedPatches, WithoutLast
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("llama4")
def llama4(c: Dimensions) -> Model:
    """The image tower, a projection, and the whole causal language model under `language_model`."""
    v, text, name = c.vision_config, c.text_config, class_name(c)
    if name.endswith("ForCausalLM"):
        return model_of(text.but(architectures=[name]))
    if not name.endswith("ForConditionalGeneration"):
        raise unknown_class(c)
    project = sequence(Linear("linear_1", v.vision_output_dim, text.hidden_size), name="multi_modal_projector")
    tokens = int(grid(v) * v.pixel_shuffle_ratio**2)
    images = Images("", (tower(v, "vision_model"), project), image(v), tokens, scattered=True, outer=True)
    tie = "language_model.model.embed_tokens.weight" if text.tie_word_embeddings else ""
    head = Linear("lm_head", text.hidden_size, text.vocab_size, tied_to=tie)
    language = sequence(tower(text, "model"), head, name="language_model")
    return Model(sequence(images, language), context=text.max_position_embeddings)


@architecture("llama4_vision_model")
def llama4_vision(c: Dimensions) -> Model:
    """A ViT with rotary positions, the class token last; tokens shuffled four to one through an MLP."""
    hidden, (height, width) = c.hidden_size, pair(c.patch_size)
    linear = Linear("linear", c.num_channels * height * width, hidden)
    cut = UnfoldedPatches("patch_embedding", (linear,), height)
    dim = hidden // c.num_attention_heads
    mixer = attention(c, "self_attn", rotary_dim=dim, rotation="own", softmax="scores", formula="llama4-vision")
    norms = layer_norms(c, "input_layernorm", "post_attention_layernorm")
    layers = sequence(repeat("layers", c.num_hidden_layers, encoder_layer(mixer, mlp(c), norms)), name="model")
    body = sequence(
        cut, Prefix("class_embedding", (hidden,)), Positions("positional_embedding_vlm", (grid(c) + 1, hidden)),
        Norm("layernorm_pre", hidden, "layer"), ComplexRotary("", dim), layers, Norm("layernorm_post", hidden, "layer"),
        WithoutLast(""), _adapter(c),
    )  # fmt: skip
    return Model(body, "encoder", image=image(c))


def _adapter(c: Dimensions) -> Sequence:
    """Pixel shuffle, and gelu(fc2(gelu(fc1(x))))."""
    wide = c.projector_output_dim
    first, second = Linear("fc1", c.intermediate_size, c.projector_input_dim), Linear("fc2", wide, wide)
    act, drop = Activation("", "gelu"), Dropout("", float(c.projector_dropout))
    feed = sequence(first, act, drop, second, act, name="mlp")
    shuffle = MergeNeighbours("", round(1 / c.pixel_shuffle_ratio), shuffled=True)
    return sequence(shuffle, feed, name="vision_adapter")
