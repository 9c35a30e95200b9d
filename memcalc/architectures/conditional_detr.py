"""Conditional DETR's decoder: content and place of each query are projected apart (Meng et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures.vision import prediction_head
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import PostNorm, sequence, stack
from memcalc.blocks.basic import Dropout, Linear, Norm
from memcalc.blocks.detection import ConditionalDecoder
from memcalc.blocks.mlp import Mlp

if TYPE_CHECKING:
    from memcalc.blocks.base import Block, Sequence
    from memcalc.dimensions import Dimensions


def conditional_decoder(c: Dimensions) -> ConditionalDecoder:
    """A point for each query, and layers; behind each but the last, what scales the next one's sinusoids of the points."""
    rest = _layer(c, first=False)
    layers = stack("layers", [_layer(c, first=True), *[rest] * (c.decoder_layers - 1)])
    points = prediction_head("ref_point_head", c.d_model, 2, 2)
    return ConditionalDecoder("decoder", points, prediction_head("query_scale", c.d_model, c.d_model, 2), layers)


def _layer(c: Dimensions, *, first: bool) -> Sequence:
    width, act = c.d_model, float(c.activation_dropout)
    up, down = Linear("fc1", width, c.decoder_ffn_dim, bias=True), Linear("fc2", c.decoder_ffn_dim, width, bias=True)
    feed = Mlp("mlp", up, down, activation=c.activation_function, width=c.decoder_ffn_dim, dropout=act,
               functional=True)  # fmt: skip
    mixers = _attention(c, "self_attn", ("q_pos_proj", "k_pos_proj"), "conditional-self"), _cross(c, first=first)
    blocks: list[Block] = [
        PostNorm(
            "",
            (mixer, Dropout("", float(c.dropout), functional=True)),
            Norm(f"{mixer.name}_layer_norm", width, "layer"),
        )
        for mixer in mixers
    ]
    return sequence(
        *blocks,
        PostNorm("", (feed, Dropout("", float(c.dropout), functional=True)), Norm("final_layer_norm", width, "layer")),
    )


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
