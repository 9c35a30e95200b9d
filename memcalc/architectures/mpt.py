"""MPT: GPT-like without any bias, ALiBi instead of positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import causal_lm, fused_attention, layer_norm, plain_mlp, tokens
from memcalc.blocks.base import repeat, residual, sequence
from memcalc.blocks.basic import Dropout

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("mpt")
def mpt(c: Dimensions) -> Model:
    """Pre-norm decoder with LayerNorms without bias (MosaicML 2023); the class builds no qk_ln."""
    inner = c.get("attn_config") or {}
    p = float(inner.get("attn_pdrop") or 0.0)
    drop = Dropout("", p) if p else None
    mixer = fused_attention(
        c, "attn", "Wqkv", "out_proj", rotary_dim=0, alibi=bool(inner.get("alibi", True)), dropout=p,
        clip=float(inner.get("clip_qkv") or 0.0), formula="mpt",
    )  # fmt: skip
    mlp = plain_mlp(c.but(hidden_act="gelu"), "up_proj", "down_proj", 4 * c.hidden_size, name="ffn", bias=False)
    layer = sequence(
        residual(layer_norm("norm_1", c.hidden_size, bias=False), mixer, drop, kept=True),
        residual(layer_norm("norm_2", c.hidden_size, bias=False), mlp, drop),
    )
    return causal_lm(
        c,
        tokens(c, "wte"),
        repeat("blocks", c.num_hidden_layers, layer),
        layer_norm("norm_f", c.hidden_size, bias=False),
        prefix="transformer", tie="wte", classifier="classifier", context=c.max_seq_len,
    )  # fmt: skip
