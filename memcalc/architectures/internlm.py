"""InternLM 1 and 2 (code beside their weights): Llama with biases, then with names of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    causal_lm,
    decoder,
    fused_attention,
    gated_mlp,
    pre_norm_layer,
    rms,
    tokens,
)
from memcalc.blocks.base import repeat, residual, sequence
from memcalc.blocks.basic import Linear
from memcalc.blocks.mlp import Mlp

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("internlm")
def internlm(c: Dimensions) -> Model:
    """Llama with biases around its attention (modeling_internlm.py)."""
    layer = pre_norm_layer(c, attention(c, bias=bool(c.bias)), gated_mlp(c))
    return decoder(c, repeat("layers", c.num_hidden_layers, layer))


@architecture("internlm2")
def internlm2(c: Dimensions) -> Model:
    """Llama with one projection for q, k and v, grouped by key/value head (modeling_internlm2.py)."""
    hidden, width = c.hidden_size, c.intermediate_size
    gate, up, down = Linear("w1", hidden, width), Linear("w3", hidden, width), Linear("w2", width, hidden)
    mlp = Mlp("feed_forward", up, down, gate, activation=str(c.hidden_act), width=width)
    mixer = fused_attention(c, "attention", "wqkv", "wo", bias=bool(c.bias))
    layer = sequence(residual(rms("attention_norm", hidden), mixer), residual(rms("ffn_norm", hidden), mlp))
    body = (tokens(c, "tok_embeddings"), repeat("layers", c.num_hidden_layers, layer), rms("norm", hidden))
    return causal_lm(c, *body, tie="tok_embeddings", head="output", reward=Linear("v_head", hidden, 1))
