"""Llama and its kin: pre-norm decoders with RMSNorm, rotary grouped-query attention and a gated MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, causal_lm, gated_mlp, pre_norm_layer, rms, tokens
from memcalc.blocks.base import repeat

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("llama", "mistral")
def llama(c: Dimensions) -> Model:
    """Pre-norm decoder with RMSNorm, rotary grouped-query attention and a gated MLP (Touvron et al. 2023)."""
    mixer = attention(c, bias=bool(c.get("attention_bias")))
    layer = pre_norm_layer(c, mixer, gated_mlp(c, bias=bool(c.get("mlp_bias"))))
    layers = repeat("layers", c.num_hidden_layers, layer)
    return causal_lm(c, tokens(c), layers, rms("norm", c.hidden_size), tie="embed_tokens")
