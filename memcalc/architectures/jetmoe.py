"""JetMoE: a mixture of attention heads and a mixture of MLPs in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import decoder, pre_norm_layer
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Param, repeat
from memcalc.blocks.basic import Linear
from memcalc.blocks.mlp import Experts, LinearRouter, Moe

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("jetmoe")
def jetmoe(c: Dimensions) -> Model:
    """Query and output projections are experts, keys and values are shared by them (arXiv:2404.07413)."""
    heads, dim, top = c.num_key_value_heads, c.kv_channels, c.num_experts_per_tok
    mixer = Attention(
        "self_attention", heads * top, heads, dim, q=_mixture(c, "experts", heads * dim, heads * dim),
        k=Linear("kv_proj", c.hidden_size, 2 * heads * dim), rotary_dim=dim,
        dropout=float(c.attention_dropout or 0.0), formula="jetmoe",
    )  # fmt: skip
    feed = _mixture(c, "mlp", 2 * c.intermediate_size, c.intermediate_size)
    return decoder(c, repeat("layers", c.num_hidden_layers, pre_norm_layer(c, mixer, feed)))


def _mixture(c: Dimensions, name: str, inner: int, outer: int) -> Moe:
    """Experts from hidden to `inner` channels and from `outer` back to hidden, with a bias they share."""
    count, hidden = c.num_local_experts, c.hidden_size
    params = (
        Param("input_linear.weight", (count, inner, hidden)),
        Param("output_linear.weight", (count, hidden, outer)),
    )
    experts = Experts("", count, outer, params, inner != outer, c.activation_function, "jetmoe")
    gate = LinearRouter("router.layer", hidden, count, c.num_experts_per_tok, scores="softmax-chosen")
    return Moe(name, gate, experts, top_k=c.num_experts_per_tok, extra=(Param("bias", (hidden,)),), formula="jetmoe")
