"""Megatron-LM's GPTModel, which NeMo and GPT-NeoX share: one decoder whose every part is a switch of its config.

megatron/core/models/gpt/gpt_layer_specs.py and transformer_config.py. Sizes bear a config.json's names; the switches are
`normalization` (rms, layer), `gated`, `attention_bias`, `qkv_bias`, `mlp_bias`, `qk_norm`, `position_embedding` (rope,
learned, alibi, none), `parallel_residual` (a norm for each branch, or "one" for both) and, for mixtures, `moe_layers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    causal_lm,
    dropout,
    gated_mlp,
    head_dim,
    interleaved,
    layer_norm,
    plain_mlp,
    rms,
    tokens,
)
from memcalc.architectures.deepseek import latent_attention
from memcalc.architectures.experts import corrected_router, mixture, router, shared_expert, stacked_experts
from memcalc.blocks.base import Block, parallel, residual, sequence
from memcalc.blocks.basic import Embedding
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.blocks.basic import Norm
    from memcalc.blocks.mlp import Mlp, Router
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("megatron_gpt")
def megatron_gpt(c: Dimensions) -> Model:
    """Pre-norm decoder (Shoeybi et al. 2019; Narayanan et al. 2021)."""
    learned = c.position_embedding == "learned"
    positions = Embedding("position_embeddings", c.max_position_embeddings, c.hidden_size, index="positions")
    mixer = latent_attention(c) if c.get("kv_lora_rank") else _attention(c)
    layers = interleaved("layers", _sparse(c), lambda sparse: _layer(c, mixer, _feed_forward(c, sparse=sparse)))
    body = (tokens(c), positions if learned else None, dropout(c, "hidden_dropout"), layers, norm(c, "norm"))
    return causal_lm(c, *body, tie="embed_tokens")


def norm(c: Dimensions, name: str) -> Norm:
    """RMSNorm or LayerNorm over the hidden state."""
    return rms(name, c.hidden_size) if c.normalization == "rms" else layer_norm(name, c.hidden_size)


def _attention(c: Dimensions) -> Block:
    dim, turns = head_dim(c), c.position_embedding == "rope"
    norms: dict[str, Any] = {}
    if c.qk_norm:
        kind = rms if c.normalization == "rms" else layer_norm
        norms = {"q_norm": kind("q_norm", dim), "k_norm": kind("k_norm", dim)}
    return attention(
        c, bias=bool(c.attention_bias or c.qkv_bias), out_bias=bool(c.attention_bias), alibi=c.position_embedding == "alibi",
        rotary_dim=int(dim * float(c.rotary_percent)) if turns else 0, window=int(c.get("sliding_window") or 0), **norms,
    )  # fmt: skip


def _layer(c: Dimensions, mixer: Block, feed_forward: Block) -> Block:
    """In a row, or side by side behind a norm each or one for both."""
    first, second = norm(c, "input_layernorm"), norm(c, "post_attention_layernorm")
    drop = dropout(c, "hidden_dropout")
    if not c.parallel_residual:
        return sequence(residual(first, mixer, drop), residual(second, feed_forward, drop))
    if c.parallel_residual == "one":
        return parallel(sequence(mixer, drop), sequence(feed_forward, drop), norm=first)
    return parallel(sequence(first, mixer, drop), sequence(second, feed_forward, drop))


def _sparse(c: Dimensions) -> list[bool]:
    """Which layers are mixtures: as `moe_layers` lists them, else all where there are experts."""
    listed, count = c.get("moe_layers"), c.num_hidden_layers
    if not listed:
        return [bool(c.num_experts)] * count
    if len(listed) != count:
        raise fault("model.moe_layers", f"it lists {len(listed)} layers of {count}")
    return [bool(one) for one in listed]


def _feed_forward(c: Dimensions, *, sparse: bool) -> Block:
    if not sparse:
        return _mlp(c)
    width, shared = c.moe_intermediate_size or c.intermediate_size, c.shared_expert_intermediate_size
    beside: dict[str, Any] = {}
    if shared and c.shared_expert_gate:
        beside = shared_expert(c, shared)
    elif shared:
        beside = {"shared": _mlp(c, "shared_experts", shared)}
    experts = stacked_experts(c, c.num_experts, width, bias=bool(c.mlp_bias), gated=bool(c.gated))
    return mixture(c, _router(c), width, experts=experts, **beside)


def _router(c: Dimensions) -> Router:
    """Softmax or sigmoid scores; with `router_correction` DeepSeek-V3's."""
    if c.router_correction:
        return corrected_router(c, c.num_experts)
    return router(c, c.num_experts, scores=c.router_scores)


def _mlp(c: Dimensions, name: str = "mlp", width: int = 0) -> Mlp:
    if c.gated:
        return gated_mlp(c, name, width, bias=bool(c.mlp_bias))
    return plain_mlp(c, "up_proj", "down_proj", width or c.intermediate_size, name=name, bias=bool(c.mlp_bias))
