"""GPT-Neo: GPT-2 with plain linears, every other layer local."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, causal_lm, dropout, interleaved, layer_norm, plain_mlp, tokens
from memcalc.blocks.base import Block, residual, sequence
from memcalc.blocks.basic import Embedding

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("gpt_neo")
def gpt_neo(c: Dimensions) -> Model:
    """Pre-norm decoder with learned positions whose attention runs in fp32 (Black et al. 2021)."""
    width = c.get("intermediate_size") or 4 * c.hidden_size

    def layer(kind: str) -> Block:
        seen = c.window_size if kind == "local" else 0
        mixer = attention(c, "attention", out="out_proj", out_bias=True, rotary_dim=0, window=seen, formula="gpt_neo")
        return sequence(
            residual(
                layer_norm("ln_1", c.hidden_size), sequence(mixer, name="attn"), dropout(c, "resid_dropout"), kept=True
            ),
            residual(
                layer_norm("ln_2", c.hidden_size), plain_mlp(c, "c_fc", "c_proj", width), dropout(c, "resid_dropout")
            ),
        )

    return causal_lm(
        c,
        tokens(c, "wte"),
        Embedding("wpe", c.max_position_embeddings, c.hidden_size, index="positions"),
        dropout(c, "embed_dropout"),
        interleaved("h", _kinds(c), layer),
        layer_norm("ln_f", c.hidden_size),
        prefix="transformer", tie="wte", classifier="classifier",
    )  # fmt: skip


def _kinds(c: Dimensions) -> list[str]:
    """[[["global", "local"], 12]] spelled out (transformers, GPTNeoConfig.expand_attention_types_params)."""
    groups = c.get("attention_types") or [[["global", "local"], 12]]
    kinds = [kind for pattern, times in groups for _ in range(times) for kind in pattern]
    if len(kinds) != c.num_hidden_layers:
        raise ValueError(f"attention_types names {len(kinds)} layers, num_layers {c.num_hidden_layers}")
    return kinds
