"""BLOOM: ALiBi instead of positions, a LayerNorm behind the embedding."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import causal_lm, dropout, fused_attention, layer_norm, plain_mlp, tokens
from memcalc.blocks.base import Block, repeat, residual, sequence

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("bloom")
def bloom(c: Dimensions) -> Model:
    """Pre-norm decoder with fused query, key and value and linear biases on the scores (Le Scao et al. 2022)."""
    if c.get("n_embed"):
        c = c.but(hidden_size=c.n_embed)
    hidden = c.hidden_size
    mixer = fused_attention(
        c, "self_attention", "query_key_value", "dense", bias=True, rotary_dim=0, alibi=True, formula="bloom"
    )
    mlp = replace(plain_mlp(c.but(hidden_act="bloom_gelu"), "dense_h_to_4h", "dense_4h_to_h", 4 * hidden), adds=True)
    layer = sequence(_step(c, "input_layernorm", mixer), _step(c, "post_attention_layernorm", mlp))
    return causal_lm(
        c,
        tokens(c, "word_embeddings"),
        layer_norm("word_embeddings_layernorm", hidden),
        repeat("h", c.num_hidden_layers, layer),
        layer_norm("ln_f", hidden),
        prefix="transformer", tie="word_embeddings", classifier="classifier", context=0,
    )  # fmt: skip


def _step(c: Dimensions, name: str, block: Block) -> Block:
    """x + f(norm(x)), or norm(x) + f(norm(x)) with apply_residual_connection_post_layernorm; summed up within the modules."""
    norm, inner = layer_norm(name, c.hidden_size), (block, dropout(c, "hidden_dropout", functional=True))
    if c.apply_residual_connection_post_layernorm:
        return sequence(norm, residual(*inner, within=True))
    return residual(norm, *inner, named=(), within=True, renamed=True)
