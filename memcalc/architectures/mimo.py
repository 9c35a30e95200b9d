"""MiMo-V2: five sliding layers with sinks and twice the key/value heads to one full layer, fine experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import decoder, gated_mlp, head_dim, interleaved, kv_heads, pre_norm_layer
from memcalc.architectures.experts import corrected_router, mixture, per_layer
from memcalc.blocks.attention import Attention
from memcalc.blocks.basic import Linear

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("mimo_v2_flash")
def mimo_v2_flash(c: Dimensions) -> Model:
    """Heads whose values are narrower than their keys; a dense first layer (transformers, MiMoV2FlashModel)."""
    count = c.num_hidden_layers

    def layer(kind: tuple[str, str]) -> Block:
        gate = corrected_router(c, c.n_routed_experts)
        feed = mixture(c, gate, c.moe_intermediate_size) if kind[1] == "sparse" else gated_mlp(c)
        return pre_norm_layer(c, _attention(c, slides=kind[0] == "sliding_attention"), feed)

    full = ["full_attention" if i == 0 or (i + 1) % 6 == 0 else "sliding_attention" for i in range(count)]
    feeds = per_layer(c, "mlp_layer_types", ["dense", *["sparse"] * (count - 1)])
    return decoder(c, interleaved("layers", list(zip(per_layer(c, "layer_types", full), feeds, strict=True)), layer))


def _attention(c: Dimensions, *, slides: bool) -> Attention:
    hidden, heads, dim, value = c.hidden_size, c.num_attention_heads, head_dim(c), c.v_head_dim
    kv, bias = kv_heads(c) * (2 if slides else 1), bool(c.attention_bias)
    seen = c.sliding_window_size + 1 if c.get("sliding_window_size") else c.sliding_window
    return Attention(
        "self_attn", heads, kv, dim,
        q=Linear("q_proj", hidden, heads * dim, bias), k=Linear("k_proj", hidden, kv * dim, bias),
        v=Linear("v_proj", hidden, kv * value, bias), out=Linear("o_proj", heads * value, hidden),
        rotary_dim=int(dim * (c.get("partial_rotary_factor") or 0.334)), window=seen if slides else 0,
        dropout=float(c.attention_dropout or 0.0), sinks=slides, value_dim=value, softmax="scores", formula="mimo",
    )  # fmt: skip
