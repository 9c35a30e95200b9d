"""LongCat-Flash: two attentions and two MLPs a layer, with a mixture that bridges the second half."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import activation, decoder, gated_mlp, rms
from memcalc.architectures.deepseek import latent_attention
from memcalc.blocks.base import Param, parallel, repeat, residual
from memcalc.blocks.mlp import Experts, LinearRouter, Moe

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("longcat_flash")
def longcat_flash(c: Dimensions) -> Model:
    """Among the experts are some that do nothing, so tokens differ in what they cost (arXiv:2509.01322)."""
    attend = [
        residual(rms(f"input_layernorm.{i}", c.hidden_size), latent_attention(c, f"self_attn.{i}")) for i in (0, 1)
    ]
    norms = [rms(f"post_attention_layernorm.{i}", c.hidden_size) for i in (0, 1)]
    mlps = [gated_mlp(c, f"mlps.{i}", c.ffn_hidden_size) for i in (0, 1)]
    first = parallel(mlps[0], _mixture(c), norm=norms[0])
    layers = repeat("layers", layer_count(c), attend[0], first, attend[1], residual(norms[1], mlps[1]))
    return decoder(
        c, layers, registered=("mlp", "self_attn", "mlps", "input_layernorm", "post_attention_layernorm", "norm")
    )


def layer_count(c: Dimensions) -> int:
    """`num_layers`, or half of a `num_hidden_layers`, which counts the attentions (LongcatFlashConfig)."""
    given = c.given()
    return int(
        given["num_hidden_layers"] // 2 if "num_layers" not in given and "num_hidden_layers" in given else c.num_layers
    )


def _mixture(c: Dimensions) -> Moe:
    real, width, top = c.n_routed_experts, c.expert_ffn_hidden_size, c.moe_topk
    total = real + (c.get("zero_expert_num") or 0)
    shapes = {"gate_up_proj": (total, 2 * width, c.hidden_size), "down_proj": (real, c.hidden_size, width)}
    experts = Experts("experts", total, width, tuple(Param(*item) for item in shapes.items()), activation=activation(c),
                      implementation="eager")  # fmt: skip
    gate = LinearRouter("router.classifier", c.hidden_size, total, top, bool(c.get("router_bias")), formula="longcat")
    correction = Param("router.e_score_correction_bias", (total,), buffer=True, dtype="fp32")
    return Moe("mlp", gate, experts, top_k=top, extra=(correction,))
