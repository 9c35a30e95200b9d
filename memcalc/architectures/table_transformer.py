"""Table Transformer: DETR with its norms before each branch, for the tables of a page (Smock et al. 2022)."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.detr import backbone
from memcalc.architectures.seq2seq import dropout, feed_forward, norm
from memcalc.architectures.vision import class_name, image, labels, prediction_head, unknown_class
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import repeat, residual, sequence
from memcalc.blocks.basic import Conv, Linear
from memcalc.blocks.detection import LooksFinite, SetDetector, TableDetector
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.blocks.base import Residual, Sequence
    from memcalc.dimensions import Dimensions


@architecture("table-transformer")
def table_transformer(c: Dimensions) -> Model:
    """A frozen ResNet's map, a small encoder and decoder, a class (or none) and a box for every query."""
    if not class_name(c).endswith("ForObjectDetection"):
        raise unknown_class(c)
    if c.position_embedding_type != "sine":
        raise fault("model.position_embedding_type", "of table-transformer only positions that are sinusoids are known")
    base, channels, kept = backbone(c)
    width = c.d_model
    encoder = sequence(repeat("layers", c.encoder_layers, _encoder_layer(c)), norm(c, "layernorm"), name="encoder")
    detector = SetDetector(
        "model", replace(base, name="backbone.conv_encoder.model"), Conv("input_projection", channels[-1], width, (1, 1)),
        encoder, sequence(repeat("layers", c.decoder_layers, _decoder_layer(c)), name="decoder"),
        norm(c, "decoder.layernorm"), float(c.dropout), c.num_queries, width, kept,
    )  # fmt: skip
    body = TableDetector(*(getattr(detector, field.name) for field in fields(detector)))
    scores = Linear("class_labels_classifier", width, labels(c) + 1, bias=True)
    boxes = prediction_head("bbox_predictor", width, 4, 3)
    return Model(sequence(body, scores, boxes), "detection", image=image(c), loss_fp32=False)


def _encoder_layer(c: Dimensions) -> Sequence:
    mixer = _attention(c, "self_attn", c.encoder_attention_heads)
    return sequence(_normed(c, "self_attn_layer_norm", mixer), _fed(c, c.encoder_ffn_dim), LooksFinite(""))


def _decoder_layer(c: Dimensions) -> Sequence:
    """Queries attend to each other, then to the map."""
    heads = c.decoder_attention_heads
    first = _normed(c, "self_attn_layer_norm", _attention(c, "self_attn", heads))
    cross = _normed(c, "encoder_attn_layer_norm", _attention(c, "encoder_attn", heads, cross=True))
    return sequence(first, cross, _fed(c, c.decoder_ffn_dim))


def _normed(c: Dimensions, name: str, mixer: Attention) -> Residual:
    return residual(norm(c, name), mixer, dropout(c))


def _fed(c: Dimensions, width: int) -> Residual:
    return residual(norm(c, "final_layer_norm"), feed_forward(c, width), dropout(c))


def _attention(c: Dimensions, name: str, heads: int, *, cross: bool = False) -> Attention:
    width = c.d_model
    if width % heads:
        raise fault("model.d_model", f"embed_dim must be divisible by num_heads (got {width} and {heads})")
    q, k, v, out = (Linear(f"{letter}_proj", width, width, bias=True) for letter in "qkvo")
    return Attention(name, heads, heads, width // heads, q, k, v, out=replace(out, name="out_proj"), causal=False, cross=cross,
                     formula="table-transformer", dropout=float(c.attention_dropout), eager_only=True)  # fmt: skip
