"""Phi-1 to Phi-4: the early ones side by side like GPT-J, from Phi-3 on Llama with fused projections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    causal_lm,
    decoder,
    dropout,
    fused_attention,
    fused_gated_mlp,
    layer_norm,
    plain_mlp,
    rms,
    rotary_dim,
    tokens,
    window,
)
from memcalc.blocks.base import parallel, repeat, residual, sequence
from memcalc.blocks.basic import Linear
from memcalc.blocks.mlp import Mlp

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("phi")
def phi(c: Dimensions) -> Model:
    """Phi-1, 1.5 and 2: attention and MLP side by side behind one LayerNorm, biases throughout (Li et al. 2023)."""
    dim = c.hidden_size // c.num_attention_heads
    q, k = (layer_norm(name, dim) if c.qk_layernorm else None for name in ("q_layernorm", "k_layernorm"))
    rotary = rotary_dim(c, 0.5)
    mixer = attention(c, bias=True, out="dense", rotary_dim=rotary, q_norm=q, k_norm=k, formula="phi")
    layer = parallel(
        sequence(mixer, dropout(c, "resid_pdrop")),
        sequence(plain_mlp(c, "fc1", "fc2", c.intermediate_size), dropout(c, "resid_pdrop")),
        norm=layer_norm("input_layernorm", c.hidden_size),
    )
    layers, final = repeat("layers", c.num_hidden_layers, layer), layer_norm("final_layernorm", c.hidden_size)
    return causal_lm(c, tokens(c), dropout(c, "embd_pdrop"), layers, final, tie="embed_tokens", head_bias=True)


@architecture("phi3")
def phi3(c: Dimensions) -> Model:
    """Phi-3 and Phi-4: Llama with one projection for q, k, v and one for gate and up (Abdin et al. 2024)."""
    mixer = fused_attention(c, "self_attn", "qkv_proj", "o_proj", window=window(c), formula="phi3")
    layer = sequence(
        residual(rms("input_layernorm", c.hidden_size), mixer, dropout(c, "resid_pdrop")),
        residual(rms("post_attention_layernorm", c.hidden_size), fused_gated_mlp(c), dropout(c, "resid_pdrop")),
    )
    return decoder(c, repeat("layers", c.num_hidden_layers, layer), registered=("o_proj", "qkv_proj"))


@architecture("phi3small")
def phi3small(c: Dimensions) -> Model:
    """Phi-3-small (modeling_phi3_small.py beside its weights): LayerNorms, biases, a GELU gated by odd columns."""
    hidden, width = c.hidden_size, c.ff_intermediate_size
    up, down = Linear("up_proj", hidden, 2 * width, bias=True), Linear("down_proj", width, hidden, bias=True)
    mlp = Mlp("mlp", up, down, fused=True, activation="gegelu", width=width)
    mixer = fused_attention(c, "self_attn", "query_key_value", "dense", bias=True, formula="phi3small")
    layer = sequence(
        residual(layer_norm("input_layernorm", hidden), mixer, dropout(c, "ffn_dropout_prob")),
        residual(layer_norm("post_attention_layernorm", hidden), mlp, dropout(c, "ffn_dropout_prob")),
    )
    layers, final = repeat("layers", c.num_hidden_layers, layer), layer_norm("final_layernorm", hidden)
    return causal_lm(c, tokens(c), dropout(c, "embedding_dropout_prob"), layers, final, tie="embed_tokens")
