"""StableLM: Llama with LayerNorms; the larger ones side by side, with a norm for every head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    causal_lm,
    dropout,
    gated_mlp,
    kv_heads,
    layer_norm,
    rotary_dim,
    tokens,
)
from memcalc.blocks.base import Block, Sequence, parallel, repeat, residual, sequence

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("stablelm", "stablelm_epoch")
def stablelm(c: Dimensions) -> Model:
    """Pre-norm decoder with LayerNorm, rotary positions on a quarter of each head and a gated MLP (Bellagente 2024)."""
    c = c.but(head_dim=None)  # the class derives it, whatever the config says
    q = _per_head(c, "q_layernorm", c.num_attention_heads)
    k = _per_head(c, "k_layernorm", kv_heads(c))
    rotary = rotary_dim(c, 0.25)
    mixer = attention(c, bias=c.use_qkv_bias, out_bias=False, rotary_dim=rotary, q_norm=q, k_norm=k, formula="stablelm")
    layers = repeat("layers", c.num_hidden_layers, _layer(c, mixer))
    return causal_lm(c, tokens(c), layers, layer_norm("norm", c.hidden_size), tie="embed_tokens")


def _layer(c: Dimensions, mixer: Block) -> Block:
    norm, mlp = layer_norm("input_layernorm", c.hidden_size), sequence(gated_mlp(c), dropout(c, "hidden_dropout"))
    if c.use_parallel_residual:
        return parallel(mixer, mlp, norm=norm, input_first=True)
    return sequence(
        residual(norm, mixer, lasting=(0, 1)),
        residual(layer_norm("post_attention_layernorm", c.hidden_size), mlp, lasting=(1,)),
    )


def _per_head(c: Dimensions, name: str, heads: int) -> Sequence | None:
    """StableLmLayerNormPerHead: a LayerNorm module without bias for every head."""
    norm = layer_norm("", c.hidden_size // c.num_attention_heads, bias=False)
    return sequence(repeat("norms", heads, norm), name=name) if c.qk_layernorm else None
