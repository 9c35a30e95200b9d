"""Vision transformers of other labs: AIMv2 (Fini et al. 2024), data2vec's (Baevski et al. 2022)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import gated_mlp, rms
from memcalc.architectures.vision import (
    attention,
    class_name,
    drop_path,
    dropout,
    embeddings,
    grid,
    image_classifier,
    layer_norms,
    layer_scales,
    made,
    mask_token,
    mlp,
    patches,
    unknown_class,
)
from memcalc.architectures.vit import patch_map, relative_bias
from memcalc.blocks.base import Block, Sequence, repeat, residual, sequence, stack
from memcalc.blocks.basic import Embedding, Linear, Norm, Select
from memcalc.blocks.image import BiasedLayer, FixedPositions, SharedBias
from memcalc.blocks.pooling import TokenPool

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("aimv2_vision_model")
def aimv2_vision(c: Dimensions) -> Model:
    """A ViT of RMSNorms and gated MLPs without a class token, pooled by one behind its layers."""
    width, heads, bias = c.hidden_size, c.num_attention_heads, bool(c.qkv_bias)
    places: Block = Embedding("position_embedding", grid(c), width, index="positions")
    if c.is_native:
        places = FixedPositions("", grid(c), width)
    start = sequence(patches(c, "patch_embed"), rms("rms_norm", width), places, name="embeddings")
    mixer = attention(c, "attention", bias=bias, out="out_proj", out_bias=bias, softmax="fp32")
    layer = sequence(
        residual(rms("rms_norm1", width), mixer, renamed=True, lasting=(1,)),
        residual(rms("rms_norm2", width), gated_mlp(c, "ffn", bias=bool(c.mlp_bias)), renamed=True, lasting=(1,)),
    )
    k, v = (Linear(name, width, width, bias) for name in ("k_proj", "v_proj"))
    pool = TokenPool("head", (k, v, Linear("output_proj", width, width, bias=True)), token=(1, 1, width), heads=heads)
    layers = sequence(repeat("layers", c.num_hidden_layers, layer), name="encoder")
    return made(c, sequence(start, layers, rms("rms_norm", width), pool if c.use_head else None), "encoder")


@architecture("data2vec-vision")
def data2vec_vision(c: Dimensions) -> Model:
    """BEiT, taught to predict what a slower copy of itself makes of the whole image."""
    name = class_name(c)
    mask = (mask_token(c, 1, 1),) if c.use_mask_token else ()
    begin = embeddings(c, prefix={"cls_token": 1}, extra=mask, positions=c.use_absolute_position_embeddings)
    shared = Sequence("relative_position_bias", (relative_bias(c),))
    table = SharedBias("", (), shared, patch_map(c)) if c.use_shared_relative_position_bias else None
    first, later = _data2vec_layer(c, first=True), _data2vec_layer(c)
    layers = stack("layer", [first, *[later] * (c.num_hidden_layers - 1)])
    mean = bool(c.use_mean_pooling)
    norm = None if mean else Norm("layernorm", c.hidden_size, "layer")
    body = (begin, sequence(table, layers, name="encoder"), *((norm,) if norm else ()))
    if name.endswith("ForImageClassification"):
        own = Norm("layernorm", c.hidden_size, "layer") if mean else None
        end = sequence(Select("", "mean of rest" if mean else "first"), own, name="pooler")
        return image_classifier(c, Sequence("data2vec_vision", (*body, end)), c.hidden_size, "")
    if not name.endswith("VisionModel"):
        raise unknown_class(c)
    return made(c, sequence(*body), "encoder")


def _data2vec_layer(c: Dimensions, *, first: bool = False) -> Sequence:
    """Pre-norm in BERT's modules, with biases of relative positions where the config asks for them."""
    hidden, path = c.hidden_size, drop_path(c, first=first)
    q, k, v = (Linear(f"attention.{name}", hidden, hidden, name != "key") for name in ("query", "key", "value"))
    mixer = replace(attention(c, "attention", out="output.dense", softmax="scores"), q=q, k=k, v=v)
    if c.use_relative_position_bias:
        table = Sequence("attention.relative_position_bias", (relative_bias(c),))
        mixer = replace(mixer, before=(BiasedLayer("", (), table, patch_map(c)),), formula="data2vec-vision")
    scales = layer_scales(c, "lambda_1", "lambda_2") if c.layer_scale_init_value > 0 else (None, None)
    before, after = layer_norms(c, "layernorm_before", "layernorm_after")
    feed = mlp(c, name="", names=("intermediate.dense", "output.dense"))
    return sequence(
        residual(before, mixer, dropout(c), scales[0], path, lasting=(2, 3) if scales[0] else (2,)),
        residual(after, feed, dropout(c), scales[1], path),
    )
