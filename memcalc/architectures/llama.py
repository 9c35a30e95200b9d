"""Llama and its kin: pre-norm decoders with RMSNorm, rotary grouped-query attention and a gated MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, decoder, gated_mlp, pre_norm_layer, window
from memcalc.blocks.base import repeat

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("llama")
def llama(c: Dimensions) -> Model:
    """Pre-norm decoder with RMSNorm, rotary grouped-query attention and a gated MLP (Touvron et al. 2023)."""
    layer = pre_norm_layer(c, attention(c, bias=c.attention_bias), gated_mlp(c, bias=c.mlp_bias))
    return decoder(c, repeat("layers", c.num_hidden_layers, layer))


@architecture("mistral")
def mistral(c: Dimensions) -> Model:
    """Llama with a sliding window in every layer, where it has one (Jiang et al. 2023)."""
    layer = pre_norm_layer(c, attention(c, window=window(c)), gated_mlp(c))
    return decoder(c, repeat("layers", c.num_hidden_layers, layer), qa="model")
