"""LFM3-VL: a tower of gated convolutions and attention over patches of any number before LFM3 (Liquid AI 2026)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, head_dim, interleaved, layer_kinds, rms
from memcalc.architectures.multimodal import image_text, tower
from memcalc.architectures.vision import pair
from memcalc.blocks.base import residual, sequence
from memcalc.blocks.basic import Activation, Conv, Linear, Norm
from memcalc.blocks.image import MergeNeighbours
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.multimodal import Images
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.blocks.base import Block, Sequence
    from memcalc.dimensions import Dimensions


@architecture("lfm3_vl")
def lfm3_vl(c: Dimensions) -> Model:
    """Patches normed, merged in squares, through a two-layer projector; LFM3 on top. What its tower runs is not known."""
    v, wide, bias = c.vision_config, c.projector_hidden_size, bool(c.projector_bias)
    first = Linear("linear_1", v.hidden_size * v.spatial_merge_size**2, wide, bias)
    second = Linear("linear_2", wide, c.text_config.hidden_size, bias)
    project = sequence(
        Norm("layer_norm", v.hidden_size, "layer"), MergeNeighbours("", v.spatial_merge_size), first,
        Activation("", c.projector_hidden_act), second, name="multi_modal_projector",
    )  # fmt: skip
    images = Images("", (tower(v, "vision_tower"), project))
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings))


@architecture("lfm3_vl_vision")
def lfm3_vl_vision(c: Dimensions) -> Model:
    """Squares of pixels of a few frames, then layers of which every other attends, the first two aside."""
    pixels = c.in_channels * pair(c.temporal_patch_size)[0] * pair(c.patch_size)[0] ** 2
    embed = Linear("patch_embed", pixels, c.hidden_size)
    kinds = layer_kinds(c, lambda i: "conv" if i < 2 or i % 2 else "full_attention")
    layers = interleaved("layers", kinds, lambda kind: _layer(c, _conv(c) if kind == "conv" else _attention(c)))
    return Model(sequence(embed, rms("embedding_norm", c.hidden_size), layers), "encoder", unread="the image tower")


def _layer(c: Dimensions, mixer: Block) -> Sequence:
    hidden, width = c.hidden_size, c.intermediate_size
    gate, up, down = Linear("w1", hidden, width), Linear("w3", hidden, width), Linear("w2", width, hidden)
    feed = Mlp("feed_forward", up, down, gate, activation="silu", width=width)
    return sequence(residual(rms("operator_norm", hidden), mixer), residual(rms("ffn_norm", hidden), feed))


def _attention(c: Dimensions) -> Block:
    dim = head_dim(c)
    return attention(c, out="out_proj", causal=False, q_norm=rms("q_norm", dim), k_norm=rms("k_norm", dim))


def _conv(c: Dimensions) -> Sequence:
    """A gated depthwise convolution over each frame's patches."""
    hidden, size = c.hidden_size, c.conv_kernel_size
    conv = Conv("spatial_conv", hidden, hidden, (size, size), conv_groups=hidden, bias=False, padding=size // 2)
    return sequence(Linear("in_proj", hidden, 3 * hidden), conv, Linear("out_proj", hidden, hidden), name="conv")
