"""Command R: attention and gated MLP side by side behind one LayerNorm without bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    causal_lm,
    gated_mlp,
    head_dim,
    interleaved,
    kv_heads,
    layer_kinds,
    tokens,
    window,
)
from memcalc.blocks.base import parallel, repeat
from memcalc.blocks.basic import Norm, Scale

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("cohere")
def cohere(c: Dimensions) -> Model:
    """x + attention(norm(x)) + mlp(norm(x)), logits scaled; the largest norms every head's query and key."""
    q, k = _per_head(c, "q_norm", c.num_attention_heads), _per_head(c, "k_norm", kv_heads(c))
    mixer = attention(c, bias=c.attention_bias, rotation="spread", q_norm=q, k_norm=k)
    layer = parallel(mixer, gated_mlp(c), norm=norm(c, "input_layernorm"), input_first=True)
    layers = repeat("layers", c.num_hidden_layers, layer)
    return causal_lm(c, tokens(c), layers, norm(c, "norm"), tie="embed_tokens", logits=Scale(""))


@architecture("cohere2")
def cohere2(c: Dimensions) -> Model:
    """Command R7B and A: three local layers with rotary positions to a global one without."""
    period = c.get("sliding_window_pattern", 4)
    kinds = layer_kinds(c, lambda i: "sliding_attention" if (i + 1) % period else "full_attention")

    def layer(kind: str) -> Block:
        seen = window(c) if kind == "sliding_attention" else 0
        rotary = head_dim(c) if seen else 0
        mixer = attention(c, bias=c.attention_bias, window=seen, rotary_dim=rotary, rotation="spread")
        return parallel(mixer, gated_mlp(c), norm=norm(c, "input_layernorm"), input_first=True)

    layers = interleaved("layers", kinds, layer)
    return causal_lm(c, tokens(c), layers, norm(c, "norm"), tie="embed_tokens", logits=Scale(""))


def norm(c: Dimensions, name: str) -> Norm:
    """CohereLayerNorm: in fp32, no bias."""
    return Norm(name, c.hidden_size, "layer-no-bias", "cohere")


def _per_head(c: Dimensions, name: str, heads: int) -> Norm | None:
    return Norm(name, head_dim(c), "layer-no-bias", "cohere", heads=heads) if c.use_qk_norm else None
