"""SmolLM3: Llama without rotary positions in every fourth layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    decoder,
    gated_mlp,
    head_dim,
    interleaved,
    layer_kinds,
    pre_norm_layer,
    window,
)

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("smollm3")
def smollm3(c: Dimensions) -> Model:
    """Rotary positions in the layers that `no_rope_layers` marks 1, the rest without (transformers, SmolLM3Config)."""
    rope = c.get("no_rope_layers") or [int((i + 1) % c.no_rope_layer_interval != 0) for i in range(c.num_hidden_layers)]
    sliding = bool(c.use_sliding_window and c.get("sliding_window"))
    kinds = layer_kinds(c, lambda i: "sliding_attention" if sliding and not rope[i] else "full_attention")

    def layer(kind: tuple[str, bool]) -> Block:
        seen = window(c) if sliding and kind[0] == "sliding_attention" else 0
        mixer = attention(c, bias=c.attention_bias, window=seen, rotary_dim=head_dim(c) if kind[1] else 0)
        return pre_norm_layer(c, mixer, gated_mlp(c, bias=c.mlp_bias))

    return decoder(c, interleaved("layers", [(kinds[i], bool(rope[i])) for i in range(c.num_hidden_layers)], layer))
