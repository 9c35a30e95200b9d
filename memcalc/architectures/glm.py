"""GLM-4: Llama with half-rotated heads, biased q, k, v and a fused gate; from 0414 on with sandwich norms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, decoder, fused_gated_mlp, pre_norm_layer, rms, rotary_dim
from memcalc.blocks.base import repeat, residual, sequence

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("glm")
def glm(c: Dimensions) -> Model:
    """GLM-4-9B: pre-norm decoder (GLM team 2024)."""
    layer = pre_norm_layer(c, _attention(c), fused_gated_mlp(c))
    return decoder(c, repeat("layers", c.num_hidden_layers, layer), qa="model")


@architecture("glm4")
def glm4(c: Dimensions) -> Model:
    """GLM-4-0414: a norm before and behind each block."""
    hidden = c.hidden_size
    layer = sequence(
        residual(rms("input_layernorm", hidden), _attention(c), rms("post_self_attn_layernorm", hidden)),
        residual(rms("post_attention_layernorm", hidden), fused_gated_mlp(c), rms("post_mlp_layernorm", hidden)),
    )
    return decoder(c, repeat("layers", c.num_hidden_layers, layer), qa="model")


def _attention(c: Dimensions) -> Attention:
    return attention(c, bias=c.attention_bias, out_bias=False, rotary_dim=rotary_dim(c, 0.5), rotation="pairs")
