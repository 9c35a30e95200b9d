"""Falcon: multi-query attention beside the MLP (7B), grouped with two norms (40B, 180B), or GPT-like with ALiBi."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import causal_lm, dropout, fused_attention, layer_norm, plain_mlp, tokens
from memcalc.blocks.base import Block, Sum, repeat, residual, sequence
from memcalc.blocks.basic import Linear, ProductLinear

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("falcon", "refinedweb", "refinedwebmodel")
def falcon(c: Dimensions) -> Model:
    """Decoder with fused query, key and value whose layer has one of three forms (Almazrouei et al. 2023)."""
    if c.get("n_embed"):
        c = c.but(hidden_size=c.n_embed)
    rotary = 0 if c.alibi else c.hidden_size // c.num_attention_heads
    mixer = fused_attention(
        c, "self_attention", "query_key_value", "dense", bias=bool(c.bias), kv_heads=_kv_heads(c), rotary_dim=rotary,
        alibi=bool(c.alibi), formula="falcon",
    )  # fmt: skip
    width = c.get("ffn_hidden_size") or 4 * c.hidden_size
    mlp = plain_mlp(c.but(hidden_act=c.activation), "dense_h_to_4h", "dense_4h_to_h", width, bias=bool(c.bias))
    grouped = bool(c.new_decoder_architecture)
    mixer = replace(mixer, qkv=_written_out(mixer.qkv), out=_written_out(mixer.out), copied=grouped)
    mlp = replace(mlp, up=_written_out(mlp.up), down=_written_out(mlp.down))
    return causal_lm(
        c,
        tokens(c, "word_embeddings"),
        repeat("h", c.num_hidden_layers, _layer(c, mixer, mlp)),
        layer_norm("ln_f", c.hidden_size),
        prefix="transformer", tie="word_embeddings", classifier="classifier",
    )  # fmt: skip


def _written_out(linear: Block | None) -> ProductLinear:
    """FalconLinear in a linear's place."""
    assert isinstance(linear, Linear)  # noqa: S101 - the helpers make them
    return ProductLinear(linear.name, linear.inputs, linear.outputs, linear.bias)


def _kv_heads(c: Dimensions) -> int:
    """num_kv_heads in the new architecture; before it one, or as many as query heads (FalconAttention)."""
    if c.new_decoder_architecture:
        return int(c.get("num_kv_heads") or c.num_attention_heads)
    return 1 if c.multi_query else c.num_attention_heads


def _layer(c: Dimensions, mixer: Block, mlp: Block) -> Block:
    """FalconDecoderLayer: in a row, side by side behind two norms, or side by side behind one."""
    hidden = c.hidden_size
    if not c.parallel_attn:
        return sequence(
            residual(layer_norm("input_layernorm", hidden), mixer, dropout(c, "attention_dropout"), kept=True),
            residual(layer_norm("post_attention_layernorm", hidden), mlp, dropout(c, "hidden_dropout"), kept=True),
        )
    drop = dropout(c, "hidden_dropout")
    norms = c.get("num_ln_in_parallel_attn") or (2 if c.new_decoder_architecture else 1)
    if norms == 2:
        branches = sequence(layer_norm("ln_attn", hidden), mixer), sequence(layer_norm("ln_mlp", hidden), mlp)
        return residual(Sum("", branches, in_place=True), drop, kept=True)
    return residual(layer_norm("input_layernorm", hidden), Sum("", (mixer, mlp), in_place=True), drop, kept=True)
