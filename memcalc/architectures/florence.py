"""Florence-2: a tower of maps (DaViT; Ding et al. 2022) before BART, whose encoder reads images and a prompt (Xiao et al. 2024)."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from memcalc.architectures import architecture, model_of
from memcalc.architectures.multimodal import tower, under
from memcalc.architectures.vision import class_name, mlp, unknown_class
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Stage, sequence, stack
from memcalc.blocks.basic import Conv, Linear, Norm
from memcalc.blocks.davit import MapLayer, MapNorm, MapTokens
from memcalc.blocks.image import DropPath
from memcalc.blocks.multimodal import Images
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("florence2")
def florence2(c: Dimensions) -> Model:
    """Image tokens among those of the prompt, in BART's encoder."""
    v, t, name = c.vision_config, c.text_config, class_name(c)
    norm = Norm("image_proj_norm", v.projection_dim, "layer")
    project = MapTokens(
        "multi_modal_projector", v.embed_dim[-1], v.max_position_embeddings, v.max_temporal_embeddings,
        Linear("image_projection", v.embed_dim[-1], v.projection_dim), norm,
    )  # fmt: skip
    images = Images("", (tower(v, "vision_tower"), project), scattered=True, shrinks=prod(v.patch_stride), asks=False,
                    returned=False)  # fmt: skip
    language = model_of(t.but(architectures=["Model"]))
    inner = sequence(images, under("language_model", language.body))
    if name.endswith("ForConditionalGeneration"):
        source = "model.language_model.shared.weight" if c.tie_word_embeddings else ""
        head = Linear("lm_head", t.d_model, t.vocab_size, tied_to=source)
        return Model(sequence(under("model", inner), head), "seq2seq", language.context)
    if not name.endswith("Model"):
        raise unknown_class(c)
    return Model(inner, "encoder", language.context)


@architecture("florence_vision")
def florence_vision(c: Dimensions) -> Model:
    """Stages, each a convolution that shrinks the map, and layers of windows and of channels."""
    befores = [c.in_channels, *c.embed_dim]
    stages = [
        Stage("", (_shrink(c, i, befores[i]), stack(f"blocks.{i}", _layers(c, i), "never")))
        for i in range(len(c.embed_dim))
    ]
    return Model(sequence(*stages), "encoder")


def _shrink(c: Dimensions, i: int, before: int) -> Block:
    width, size, first = c.embed_dim[i], c.patch_size[i], bool(c.patch_prenorm[i])
    conv = Conv("conv", before, width, (size, size), c.patch_stride[i], padding=c.patch_padding[i])
    return MapNorm(f"convs.{i}", conv, Norm("norm", before if first else width, "layer"), first)


def _layers(c: Dimensions, i: int) -> list[Block]:
    """Each a layer of windows, then one of channels; the very first has nothing to drop."""
    drop = DropPath("", float(c.drop_path_rate)) if c.drop_path_rate else None
    windows, channels = _layer(c, i, drop, windowed=True), _layer(c, i, drop, windowed=False)
    later = sequence(windows, channels)
    first = sequence(_layer(c, i, None, windowed=True), channels) if i == 0 else later
    return [first, *[later] * (c.depths[i] - 1)]


def _layer(c: Dimensions, i: int, drop: Block | None, *, windowed: bool) -> Block:
    width, heads = c.embed_dim[i], c.num_heads[i] if windowed else c.num_groups[i]
    mixer = Attention(
        "window_attn" if windowed else "channel_attn", heads, heads, width // heads,
        qkv=Linear("qkv", width, 3 * width, bool(c.qkv_bias)), out=Linear("proj", width, width, bias=True), causal=False,
        window=c.window_size if windowed else 0, formula="davit-window" if windowed else "davit-channel", softmax="scores",
    )  # fmt: skip
    convs = tuple(Conv(f"conv{n}", width, width, (3, 3), 1, width, padding=1) for n in (1, 2))
    norms = tuple(Norm(f"norm{n}", width, "layer") for n in (1, 2))
    feed = mlp(c.but(hidden_act=c.activation_function), int(width * c.mlp_ratio), name="ffn", hidden=width)
    return MapLayer("spatial_block" if windowed else "channel_block", convs, norms, mixer, feed, drop, windowed)
