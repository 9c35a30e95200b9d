"""StarCoder 2: grouped-query attention with biases, LayerNorms and a plain MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, causal_lm, dropout, layer_norm, plain_mlp, tokens, window
from memcalc.blocks.base import repeat, residual, sequence

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("starcoder2")
def starcoder2(c: Dimensions) -> Model:
    """Pre-norm decoder with rotary positions, a sliding window and biases throughout (Lozhkov et al. 2024)."""
    mixer = attention(c, bias=c.use_bias, window=window(c))
    mlp = plain_mlp(c, "c_fc", "c_proj", c.intermediate_size, bias=c.use_bias)
    layer = sequence(
        residual(layer_norm("input_layernorm", c.hidden_size), mixer, dropout(c, "residual_dropout", functional=True)),
        residual(
            layer_norm("post_attention_layernorm", c.hidden_size), mlp, dropout(c, "residual_dropout", functional=True)
        ),
    )
    layers, norm = repeat("layers", c.num_hidden_layers, layer), layer_norm("norm", c.hidden_size)
    return causal_lm(c, tokens(c), dropout(c, "embedding_dropout", functional=True), layers, norm, tie="embed_tokens")
