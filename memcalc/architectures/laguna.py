"""Laguna, AFMoE and Cohere's mixture: gated or parallel attention in front of experts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    causal_lm,
    decoder,
    gated_mlp,
    head_dim,
    interleaved,
    pre_norm_layer,
    rms,
    tokens,
    window,
)
from memcalc.architectures.experts import linear_router, mixture, per_layer, router
from memcalc.architectures.qwen_moe import qk_normed
from memcalc.blocks.base import Param, parallel, residual, sequence
from memcalc.blocks.basic import Linear, Norm, Scale

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.blocks.mlp import Moe
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("laguna")
def laguna(c: Dimensions) -> Model:
    """Poolside's mixture: heads that differ from layer to layer, their outputs scaled by a softplus gate."""
    count, width = c.num_hidden_layers, c.moe_intermediate_size
    frozen = Param("e_score_correction_bias", (c.num_experts,), trainable=False)
    gate = router(c, c.num_experts, scores="sigmoid", cast_back=True, formula="laguna", extra=(frozen,))
    shared = gated_mlp(c, "shared_experts", c.shared_expert_intermediate_size)
    feeds = {"sparse": mixture(c, gate, width, shared=shared, shared_first=True, scales=True), "dense": gated_mlp(c)}

    def layer(kind: tuple[str, str, int]) -> Block:
        sized, slides = c.but(num_attention_heads=kind[2]), kind[0] == "sliding_attention"
        gates = kind[2] * (1 if c.get("gating", True) in (True, "per-head") else head_dim(c))
        rotary = head_dim(c) if slides else head_dim(c) // 2
        plain = qk_normed(
            sized, bias=c.attention_bias, rotary_dim=rotary, rotary_kind=kind[0], window=window(c) if slides else 0
        )
        mixer = replace(plain, gate=Linear("g_proj", c.hidden_size, gates), formula="laguna")
        return pre_norm_layer(c, mixer, feeds[kind[1]])

    attends = per_layer(c, "layer_types", ["full_attention"] * count)
    sparse = per_layer(c, "mlp_layer_types", ["dense", *["sparse"] * (count - 1)])
    heads = c.get("num_attention_heads_per_layer") or [c.num_attention_heads] * count
    return decoder(c, interleaved("layers", list(zip(attends, sparse, heads, strict=True)), layer))


@architecture("afmoe")
def afmoe(c: Dimensions) -> Model:
    """Arcee's Trinity: gated attention that rotates only where it slides, norms on both sides of each branch."""
    count, heads = c.num_hidden_layers, c.num_attention_heads

    def layer(kind: tuple[str, bool]) -> Block:
        slides = kind[0] == "sliding_attention"
        rotary, seen = (head_dim(c), window(c)) if slides else (0, 0)
        plain = qk_normed(c, bias=bool(c.attention_bias), rotary_dim=rotary, window=seen)
        plain = replace(plain, q_norm=rms("q_norm", head_dim(c), "olmo2"), k_norm=rms("k_norm", head_dim(c), "olmo2"))
        mixer = replace(plain, gate=Linear("gate_proj", c.hidden_size, heads * head_dim(c)), formula="gated")
        feed = _afmoe_mixture(c) if kind[1] else gated_mlp(c)
        return sequence(
            residual(_afmoe_norm(c, "input_layernorm"), mixer, _afmoe_norm(c, "post_attention_layernorm")),
            residual(_afmoe_norm(c, "pre_mlp_layernorm"), feed, _afmoe_norm(c, "post_mlp_layernorm")),
        )

    every = c.global_attn_every_n_layers
    default = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(count)]
    kinds = zip(per_layer(c, "layer_types", default), [i >= c.num_dense_layers for i in range(count)], strict=True)
    layers, scale = interleaved("layers", list(kinds), layer), Scale("") if c.mup_enabled else None
    return causal_lm(c, tokens(c), scale, layers, _afmoe_norm(c, "norm"), tie="embed_tokens")


def _afmoe_mixture(c: Dimensions) -> Moe:
    gate = linear_router(c, c.num_experts, "router.gate", scores="sigmoid", formula="afmoe")
    width = c.moe_intermediate_size * c.num_shared_experts
    shared = gated_mlp(c, "shared_experts", width) if width else None
    frozen = Param("expert_bias", (c.num_experts,), trainable=False)
    return mixture(c, gate, c.moe_intermediate_size, shared=shared, extra=(frozen,))


@architecture("cohere2_moe")
def cohere2_moe(c: Dimensions) -> Model:
    """Command's parallel layers with experts; full layers do not rotate, but for dense ones at the start."""
    first, every, dense_every = (
        c.get("first_k_dense_replace") or 0,
        c.sliding_window_pattern,
        c.prefix_dense_sliding_window_pattern,
    )
    count = c.num_hidden_layers
    slides = [(i + 1) % dense_every != 0 if i < first else (i - first + 1) % every != 0 for i in range(count)]
    attends = per_layer(c, "layer_types", ["sliding_attention" if s else "full_attention" for s in slides])
    sparse = per_layer(c, "mlp_layer_types", ["dense" if i < first else "sparse" for i in range(count)])

    def layer(kind: tuple[str, str]) -> Block:
        sliding, dense = kind[0] == "sliding_attention", kind[1] == "dense"
        rotary = head_dim(c) if sliding or (dense and dense_every == 1) else 0
        mixer = attention(
            c, bias=bool(c.attention_bias), rotary_dim=rotary, rotation="spread", window=window(c) if sliding else 0
        )
        feed = gated_mlp(c, width=c.get("prefix_dense_intermediate_size") or 0) if dense else _cohere_mixture(c)
        return parallel(mixer, feed, norm=_cohere_norm(c, "input_layernorm"), input_first=True)

    layers = interleaved("layers", list(zip(attends, sparse, strict=True)), layer)
    return causal_lm(c, tokens(c), layers, _cohere_norm(c, "norm"), tie="embed_tokens", logits=Scale(""))


def _cohere_mixture(c: Dimensions) -> Moe:
    chosen = "softmax-chosen" if c.expert_selection_fn == "softmax" else "sigmoid"
    gate = router(c, c.num_experts, scores=chosen, normalized=c.norm_topk_prob, cast_back=True, formula="cohere2_moe")
    count = c.num_shared_experts
    shared = gated_mlp(c, "shared_experts", c.intermediate_size * count) if count else None
    averaged = c.get("shared_expert_combination_strategy", "average") == "average"
    return mixture(c, gate, c.intermediate_size, shared=shared, averaged=averaged)


def _cohere_norm(c: Dimensions, name: str) -> Norm:
    """Cohere's LayerNorm without bias, or an RMSNorm where the config has an epsilon for one."""
    return _norm(c, name) if c.get("rms_norm_eps") is not None else Norm(name, c.hidden_size, "layer-no-bias", "cohere")


def _afmoe_norm(c: Dimensions, name: str) -> Norm:
    return rms(name, c.hidden_size, "olmo2")


def _norm(c: Dimensions, name: str) -> Norm:
    return rms(name, c.hidden_size)
