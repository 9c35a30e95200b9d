"""Baichuan 1 and 2 (modeling_baichuan.py beside their weights): Llama with one projection for q, k and v."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import decoder, fused_attention, gated_mlp, head_dim, pre_norm_layer
from memcalc.blocks.base import repeat

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("baichuan")
def baichuan(c: Dimensions) -> Model:
    """Rotary positions where the config has max_position_embeddings (7B), ALiBi where it has none (13B)."""
    alibi = "max_position_embeddings" not in c
    mixer = fused_attention(c, "self_attn", "W_pack", "o_proj", alibi=alibi, rotary_dim=0 if alibi else head_dim(c))
    layers = repeat("layers", c.num_hidden_layers, pre_norm_layer(c, mixer, gated_mlp(c)))
    longest = c.get("max_position_embeddings") or c.get("model_max_length") or 0
    return decoder(c, layers, context=int(longest))
