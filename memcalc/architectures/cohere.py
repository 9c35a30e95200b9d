"""Command R: attention and gated MLP side by side behind one LayerNorm without bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, causal_lm, gated_mlp, head_dim, kv_heads, tokens
from memcalc.blocks.base import parallel, repeat
from memcalc.blocks.basic import Norm, Scale

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("cohere")
def cohere(c: Dimensions) -> Model:
    """x + attention(norm(x)) + mlp(norm(x)), logits scaled; the largest norms every head's query and key."""
    q, k = _per_head(c, "q_norm", c.num_attention_heads), _per_head(c, "k_norm", kv_heads(c))
    mixer = attention(c, bias=c.attention_bias, formula="cohere", q_norm=q, k_norm=k)
    layer = parallel(mixer, gated_mlp(c), norm=norm(c, "input_layernorm"))
    layers = repeat("layers", c.num_hidden_layers, layer)
    return causal_lm(c, tokens(c), layers, norm(c, "norm"), tie="embed_tokens", logits=Scale(""))


def norm(c: Dimensions, name: str) -> Norm:
    """CohereLayerNorm: in fp32, no bias."""
    return Norm(name, c.hidden_size, "layer-no-bias", "cohere")


def _per_head(c: Dimensions, name: str, heads: int) -> Norm | None:
    return Norm(name, head_dim(c), "layer-no-bias", "cohere", heads=heads) if c.use_qk_norm else None
