"""DBRX: fused attention with clipped projections, LayerNorms without bias, sixteen experts of which four run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import causal_lm, dropout, layer_norm
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Param, repeat, residual, sequence
from memcalc.blocks.basic import Embedding, Linear
from memcalc.blocks.mlp import Experts, LinearRouter, Moe

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("dbrx")
def dbrx(c: Dimensions) -> Model:
    """Databricks' mixture: attention and its two norms in one module, experts stacked in two axes (DbrxForCausalLM)."""
    norm_1, norm_2 = (layer_norm(f"norm_attn_norm.{name}", c.d_model, bias=False) for name in ("norm_1", "norm_2"))
    drop = dropout(c, "resid_pdrop", functional=True)
    layer = sequence(residual(norm_1, _attention(c), drop), residual(norm_2, _mixture(c), drop))
    blocks, norm_f = repeat("blocks", c.n_layers, layer), layer_norm("norm_f", c.d_model, bias=False)
    table = Embedding("wte", c.vocab_size, c.d_model)
    return causal_lm(
        c, table, dropout(c, "emb_pdrop", functional=True), blocks, norm_f, prefix="transformer", tie="wte"
    )


def _attention(c: Dimensions) -> Attention:
    inner = c.nested("attn_config")
    heads, kv, dim = c.n_heads, inner.kv_n_heads, c.d_model // c.n_heads
    return Attention(
        "norm_attn_norm.attn", heads, kv, dim,
        qkv=Linear("Wqkv", c.d_model, c.d_model + 2 * kv * dim), out=Linear("out_proj", c.d_model, c.d_model),
        rotary_dim=dim, dropout=float(inner.attn_pdrop), clip=float(inner.get("clip_qkv") or 0.0),
    )  # fmt: skip


def _mixture(c: Dimensions) -> Moe:
    inner = c.nested("ffn_config")
    count, width = inner.moe_num_experts, inner.ffn_hidden_size
    act = (inner.get("ffn_act_fn") or {}).get("name", "silu")
    params = tuple(Param(name, (count * width, c.d_model)) for name in ("w1", "v1", "w2"))
    gate = LinearRouter("router.layer", c.d_model, count, inner.moe_top_k, formula="dbrx")
    experts = Experts("experts.mlp", count, width, params, activation=act, formula="dbrx", implementation="eager")
    return Moe("ffn", gate, experts, top_k=inner.moe_top_k, noises=int(inner.get("moe_jitter_eps") is not None))
