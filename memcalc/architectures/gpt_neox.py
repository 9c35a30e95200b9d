"""GPT-NeoX and Pythia: attention and MLP side by side, each behind a LayerNorm of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    causal_lm,
    dropout,
    fused_attention,
    interleaved,
    layer_norm,
    plain_mlp,
    rotary_dim,
    tokens,
)
from memcalc.blocks.base import Param, parallel, repeat, residual, sequence

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("gpt_neox")
def gpt_neox(c: Dimensions) -> Model:
    """x + attention(norm(x)) + mlp(norm(x)), or in a row without use_parallel_residual (Black et al. 2022)."""
    rotary = rotary_dim(c, c.get("rotary_pct", 0.25))
    mixer = fused_attention(
        c, "attention", "query_key_value", "dense", bias=c.attention_bias, rotary_dim=rotary, formula="gpt_neox"
    )
    first = (layer_norm("input_layernorm", c.hidden_size), mixer, dropout(c, "hidden_dropout"))
    mlp = plain_mlp(c, "dense_h_to_4h", "dense_4h_to_h", c.intermediate_size)
    second = (layer_norm("post_attention_layernorm", c.hidden_size), mlp, dropout(c, "hidden_dropout"))
    if c.use_parallel_residual:
        layer: Block = parallel(sequence(*first), sequence(*second))
    else:
        layer = sequence(residual(*first), residual(*second))
    return causal_lm(
        c,
        tokens(c, "embed_in"),
        dropout(c, "hidden_dropout"),
        repeat("layers", c.num_hidden_layers, layer),
        layer_norm("final_layer_norm", c.hidden_size),
        prefix="gpt_neox", tie="embed_in", classifier="classifier", qa="gpt_neox",
    )  # fmt: skip


@architecture("gpt_neox_japanese")
def gpt_neox_japanese(c: Dimensions) -> Model:
    """GPT-NeoX in a row, without biases but for one behind the last attention (ABEJA 2022)."""
    mlp = plain_mlp(c, "dense_h_to_4h", "dense_4h_to_h", int(c.hidden_size * c.intermediate_multiple_size), bias=False)

    def layer(last: bool) -> Block:
        mixer = fused_attention(
            c, "attention", "query_key_value", "dense", rotary_dim=rotary_dim(c, c.get("rotary_pct", 1.0)),
            extra=(Param("dense_bias", (c.hidden_size,)),) if last else (), formula="gpt_neox_japanese",
        )  # fmt: skip
        return sequence(
            residual(layer_norm("input_layernorm", c.hidden_size), mixer, dropout(c, "hidden_dropout")),
            residual(layer_norm("post_attention_layernorm", c.hidden_size), mlp, dropout(c, "hidden_dropout")),
        )

    return causal_lm(
        c,
        tokens(c, "embed_in"),
        interleaved("layers", [i == c.num_hidden_layers - 1 for i in range(c.num_hidden_layers)], layer),
        layer_norm("final_layer_norm", c.hidden_size),
        prefix="gpt_neox_japanese", tie="embed_in", head="embed_out",
    )  # fmt: skip
