"""Conditional DETR's decoder: content and place of each query are projected apart (Meng et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures.seq2seq import dropout, feed_forward, norm
from memcalc.architectures.vision import prediction_head
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import PostNorm, sequence, stack
from memcalc.blocks.basic import Linear
from memcalc.blocks.detection import ConditionalDecoder

if TYPE_CHECKING:
    from memcalc.blocks.base import Sequence
    from memcalc.dimensions import Dimensions


def conditional_decoder(c: Dimensions) -> ConditionalDecoder:
    """A point for each query, and layers; behind each but the last, what scales the next one's sinusoids of the points."""
    rest = _layer(c, first=False)
    layers = stack("layers", [_layer(c, first=True), *[rest] * (c.decoder_layers - 1)])
    points = prediction_head("ref_point_head", c.d_model, 2, 2)
    return ConditionalDecoder("decoder", points, prediction_head("query_scale", c.d_model, c.d_model, 2), layers)


def _layer(c: Dimensions, *, first: bool) -> Sequence:
    mixers = _attention(c, "self_attn", ("q_pos_proj", "k_pos_proj"), "conditional-self"), _cross(c, first=first)
    blocks = [PostNorm("", (mixer, dropout(c)), norm(c, f"{mixer.name}_layer_norm")) for mixer in mixers]
    feed = feed_forward(c, c.decoder_ffn_dim, "mlp")
    return sequence(*blocks, PostNorm("", (feed, dropout(c)), norm(c, "final_layer_norm")))


def _cross(c: Dimensions, *, first: bool) -> Attention:
    """Only the first layer adds the queries' own embeddings to their contents."""
    places = ("k_pos_proj", "q_pos_sine_proj", *(("q_pos_proj",) if first else ()))
    return _attention(c, "encoder_attn", places, "conditional-cross")


def _attention(c: Dimensions, name: str, places: tuple[str, ...], formula: str) -> Attention:
    width, heads = c.d_model, c.decoder_attention_heads
    q, k, v, out = (
        Linear(n, width, width, bias=True) for n in ("q_content_proj", "k_content_proj", "v_proj", "o_proj")
    )
    return Attention(
        name, heads, heads, width // heads, q, k, v, out=out, causal=False, cross=formula.endswith("cross"),
        before=tuple(Linear(place, width, width, bias=True) for place in places), formula=formula,
        dropout=float(c.attention_dropout), softmax="scores",
    )  # fmt: skip
