"""YOLOS: a ViT that detects by a hundred tokens of its own (Fang et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.vision import (
    class_name,
    dropout,
    grid,
    image,
    labels,
    layer_norms,
    made,
    pair,
    patches,
    unknown_class,
)
from memcalc.architectures.vit import pooler
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Sequence, repeat, residual, sequence, stack
from memcalc.blocks.basic import Activation, Linear, Norm
from memcalc.blocks.detection import BetweenLayers, LastTokens, StretchedPositions
from memcalc.blocks.image import Prefix
from memcalc.blocks.mlp import Mlp
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("yolos")
def yolos(c: Dimensions) -> Model:
    """A class token, patches and detection tokens; positions stretched to every image, also between the layers."""
    hidden, count = c.hidden_size, c.num_detection_tokens
    places, tokens = grid(c), grid(c) + 1 + count
    around = (1, count, pair(c.image_size)[0] // c.patch_size, pair(c.image_size)[1] // c.patch_size)
    start = sequence(
        sequence(patches(c, "projection"), name="patch_embeddings"), Prefix("cls_token", (1, 1, hidden)),
        Prefix("detection_tokens", (1, count, hidden)),
        StretchedPositions("position_embeddings", (1, tokens, hidden), around=around), dropout(c), name="embeddings",
    )  # fmt: skip
    between = BetweenLayers("interpolation.mid_position_embeddings", (c.num_hidden_layers - 1, 1, 1 + places + count, hidden),
                            around=around) if c.use_mid_position_embeddings else None  # fmt: skip
    layers = sequence(between, repeat("layer", c.num_hidden_layers, vit_layer(c)), name="encoder")
    body = sequence(start, layers, Norm("layernorm", hidden, "layer"))
    if class_name(c).endswith("ForObjectDetection"):
        base = Sequence("vit", (*body.blocks, LastTokens("", count)))
        heads = _head("class_labels_classifier", hidden, labels(c) + 1), _head("bbox_predictor", hidden, 4)
        return Model(sequence(base, *heads), "detection", image=image(_shown(c)), loss_fp32=False)
    if not class_name(c).endswith("Model"):
        raise unknown_class(c)
    return made(_shown(c), sequence(*body.blocks, pooler(c)), "encoder")


def _shown(c: Dimensions) -> Dimensions:
    """With the size of the images it is shown, where that is not the table's."""
    return c.but(image_size=c.pixels) if c.get("pixels") else c


def _head(name: str, hidden: int, outputs: int) -> Sequence:
    """Three linear layers (YolosMLPPredictionHead)."""
    inner = sequence(Linear("", hidden, hidden, bias=True), Activation("", "relu"))
    layers = stack("layers", [inner, inner, sequence(Linear("", hidden, outputs, bias=True))], "never")
    return sequence(layers, name=name)


def vit_layer(c: Dimensions) -> Sequence:
    """ViT's layer as modules of their own had it: attention, its output, an MLP whose second half adds up."""
    hidden, heads, bias = c.hidden_size, c.num_attention_heads, bool(c.qkv_bias)
    q, k, v = (Linear(f"attention.{name}", hidden, hidden, bias) for name in ("query", "key", "value"))
    mixer = Attention(
        "attention", heads, heads, hidden // heads, q=q, k=k, v=v, out=Linear("output.dense", hidden, hidden, bias=True),
        causal=False, dropout=float(c.attention_probs_dropout_prob), softmax="scores",
    )  # fmt: skip
    up = Linear("intermediate.dense", hidden, c.intermediate_size, bias=True)
    down = Linear("output.dense", c.intermediate_size, hidden, bias=True)
    feed = Mlp("", up, down, activation=c.hidden_act, width=c.intermediate_size, inline=True)
    before, after = layer_norms(c, "layernorm_before", "layernorm_after")
    drop = dropout(c)
    first = residual(before, mixer, drop, lasting=(0, 2 if drop else 1))
    return sequence(first, residual(after, feed, drop, within=True))
