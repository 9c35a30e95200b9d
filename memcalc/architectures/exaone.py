"""EXAONE 3 and 4: GPT-2's names around Llama's parts, then norms behind the blocks and of every head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    causal_lm,
    decoder,
    dropout,
    gated_mlp,
    head_dim,
    interleaved,
    layer_kinds,
    rms,
    tokens,
    window,
)
from memcalc.blocks.base import Block, repeat, residual, sequence
from memcalc.blocks.basic import Linear
from memcalc.blocks.mlp import Mlp

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("exaone4")
def exaone4(c: Dimensions) -> Model:
    """x + norm(f(x)); local layers rotate, global ones don't where there are local ones (LG AI Research 2025)."""
    pattern = c.get("sliding_window_pattern", 4)  # every fourth layer is global: 4, or "LLLG"
    period = 0 if not window(c) else len(pattern) if isinstance(pattern, str) else pattern
    kinds = layer_kinds(c, lambda i: "sliding_attention" if period and (i + 1) % period else "full_attention")

    def layer(kind: str) -> Block:
        local = kind == "sliding_attention"
        q, k, rotary = rms("q_norm", head_dim(c)), rms("k_norm", head_dim(c)), local or not window(c)
        mixer = attention(
            c,
            window=window(c) if local else 0,
            rotary_dim=head_dim(c) if rotary else 0,
            q_norm=q,
            k_norm=k,
            heads_first=True,
        )
        return sequence(
            residual(mixer, rms("post_attention_layernorm", c.hidden_size)),
            residual(gated_mlp(c), rms("post_feedforward_layernorm", c.hidden_size)),
        )

    return decoder(c, interleaved("layers", kinds, layer))


@architecture("exaone")
def exaone(c: Dimensions) -> Model:
    """EXAONE 3 and 3.5 (modeling_exaone.py beside their weights): Llama under GPT-2's names."""
    hidden, width = c.hidden_size, c.get("intermediate_size") or 4 * c.hidden_size
    gate, up = Linear("c_fc_0", hidden, width), Linear("c_fc_1", hidden, width)
    mlp = Mlp("mlp", up, Linear("c_proj", width, hidden), gate, activation=str(c.activation_function), width=width)
    layer = sequence(
        residual(rms("ln_1", hidden), sequence(attention(c, "attention", out="out_proj"), name="attn")),
        residual(rms("ln_2", hidden), mlp),
    )
    layers = repeat("h", c.num_hidden_layers, layer)
    return causal_lm(
        c, tokens(c, "wte"), dropout(c, "embed_dropout"), layers, rms("ln_f", hidden), prefix="transformer", tie="wte"
    )
