"""Step 3.5 and 3.7: gated attention with more heads where it slides, mixtures behind three dense layers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    causal_lm,
    gated_mlp,
    head_dim,
    interleaved,
    rms,
    rotary_dim,
    tokens,
)
from memcalc.architectures.experts import mixture, per_layer, router, stacked_experts
from memcalc.blocks.base import residual, sequence
from memcalc.blocks.basic import Linear

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.blocks.base import Block, Stack
    from memcalc.blocks.basic import Norm
    from memcalc.blocks.mlp import Moe
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("step3p5")
def step3p5(c: Dimensions) -> Model:
    """The text tower by itself (Step3p7TextModel)."""
    return causal_lm(c, *step_tower(c), tie="embed_tokens")


def step_tower(c: Dimensions) -> tuple[Block, ...]:
    """Embedding, layers and norm."""
    return tokens(c), step_layers(c), _norm("norm", c.hidden_size)


def step_layers(c: Dimensions) -> Stack:
    """The numbered layers; lists may go on for the prediction layers behind, which training leaves out."""
    count, hidden = c.num_hidden_layers, c.hidden_size

    def layer(kind: tuple[str, str]) -> Block:
        feed = _mixture(c) if kind[1] == "sparse" else replace(gated_mlp(c, bias=c.mlp_bias), formula="step")
        mixer = residual(_norm("input_layernorm", hidden), _attention(c, slides=kind[0] == "sliding_attention"))
        return sequence(mixer, residual(_norm("post_attention_layernorm", hidden), feed))

    c = c.but(**{key: c[key][:count] for key in ("layer_types", "mlp_layer_types") if c.get(key)})
    attends = per_layer(c, "layer_types", ["full_attention"] * count)
    return interleaved("layers", list(zip(attends, per_layer(c, "mlp_layer_types", mlp_types(c)), strict=True)), layer)


def mlp_types(c: Dimensions) -> list[str]:
    """'sparse' for the layers that `moe_layers_enum` lists ('3,4,5'), else for all but the first three."""
    listed = c.get("moe_layers_enum")
    items = listed.split(",") if isinstance(listed, str) else listed
    mixed = range(3, c.num_hidden_layers) if items is None else {int(i) for i in items if str(i).strip()}
    return ["sparse" if i in mixed else "dense" for i in range(c.num_hidden_layers)]


def _attention(c: Dimensions, *, slides: bool) -> Attention:
    """Sliding layers have `num_sliding_attention_heads`; a sigmoid per head scales the output."""
    other = (c.get("attention_other_setting") or {}).get("num_attention_heads")
    heads = c.get("num_sliding_attention_heads") or other or c.num_attention_heads
    c = c.but(num_attention_heads=heads) if slides else c
    dim, window = head_dim(c), (c.get("sliding_window") or 0) if slides else 0
    return attention(
        c, bias=c.attention_bias, q_norm=_norm("q_norm", dim), k_norm=_norm("k_norm", dim),
        gate=Linear("g_proj", c.hidden_size, c.num_attention_heads), formula="step", rotary_dim=rotary_dim(c), window=window,
    )  # fmt: skip


def _mixture(c: Dimensions) -> Moe:
    gate = router(c, c.n_routed_experts, scores="sigmoid", correction="e_score_correction_bias", formula="minimax_m2")
    shared = replace(gated_mlp(c, "shared_experts", c.share_expert_dim, bias=c.mlp_bias), formula="step")
    experts = stacked_experts(c, gate.experts, c.moe_intermediate_size)
    experts = replace(experts, formula="step", implementation="eager")  # Step3p7Experts has no other
    return mixture(c, gate, c.moe_intermediate_size, shared=shared, experts=experts)


def _norm(name: str, width: int) -> Norm:
    return rms(name, width, "gemma")
