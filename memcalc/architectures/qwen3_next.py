"""Qwen3-Next and Qwen3.5: three gated delta nets to one gated attention; dense or a mixture behind each."""

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
from memcalc.architectures.experts import mixture, per_layer, router, shared_expert
from memcalc.architectures.qwen_moe import feed_forward, sparse_layers
from memcalc.blocks.base import residual, sequence
from memcalc.blocks.basic import Conv, Linear
from memcalc.blocks.ssm import GatedDelta

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.blocks.base import Block, Stack
    from memcalc.blocks.basic import Norm
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("qwen3_next")
def qwen3_next(c: Dimensions) -> Model:
    """Gated delta nets and gated attention 3:1, 512 experts and a shared one (Qwen3-Next, 2025)."""
    kinds = list(zip(layer_types(c), sparse_layers(c), strict=True))
    layers = interleaved("layers", kinds, lambda kind: hybrid_layer(c, kind[0], feed_forward(c, kind[1]), fused=True))
    return causal_lm(c, tokens(c), layers, norm("norm", c.hidden_size), tie="embed_tokens")


@architecture("qwen3_5_text", "qwen3_5_moe_text")
def qwen3_5_text(c: Dimensions) -> Model:
    """The text tower of Qwen3.5 by itself."""
    return causal_lm(c, *qwen3_5_tower(c), tie="embed_tokens")


def qwen3_5_tower(c: Dimensions) -> tuple[Block, ...]:
    """Embedding, layers and norm of Qwen3.5: dense, or a mixture where the config has experts."""
    return tokens(c), qwen3_5_text_layers(c), norm("norm", c.hidden_size)


def qwen3_5_text_layers(c: Dimensions) -> Stack:
    """The numbered layers of Qwen3.5's text tower."""
    gate = router(c, c.num_experts, cast_back=True) if "num_experts" in c else None
    shared = shared_expert(c, c.shared_expert_intermediate_size) if gate else {}
    feed = mixture(c, gate, c.moe_intermediate_size, **shared) if gate else gated_mlp(c)
    return interleaved("layers", layer_types(c), lambda kind: hybrid_layer(c, kind, feed, fused=False))


def hybrid_layer(c: Dimensions, kind: str, feed: Block, *, fused: bool) -> Block:
    """One layer: a gated delta net or gated attention, then the feed-forward block."""
    mixer = gated_delta(c, fused=fused) if kind == "linear_attention" else gated_attention(c)
    return sequence(
        residual(norm("input_layernorm", c.hidden_size), mixer),
        residual(norm("post_attention_layernorm", c.hidden_size), feed),
    )


def layer_types(c: Dimensions) -> list[str]:
    """Full attention every `full_attention_interval` layers, unless listed."""
    every = c.get("full_attention_interval") or 4
    default = ["full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(c.num_hidden_layers)]
    return per_layer(c, "layer_types", default)


def gated_attention(c: Dimensions) -> Attention:
    """Attention with a partial rotation and a sigmoid gate from the second half of a query projection twice as wide."""
    heads, dim, bias = c.num_attention_heads, head_dim(c), bool(c.attention_bias)
    plain = attention(c, bias=bias, rotary_dim=rotary_dim(c, 0.25))
    q = Linear("q_proj", c.hidden_size, heads * dim * 2, bias)
    return replace(plain, q=q, gated=True, formula="qwen3_next", q_norm=norm("q_norm", dim), k_norm=norm("k_norm", dim))


def gated_delta(c: Dimensions, *, fused: bool) -> GatedDelta:
    """A gated delta net; Qwen3-Next fuses its projections, Qwen3.5 keeps them apart."""
    hidden, key_heads, heads = c.hidden_size, c.linear_num_key_heads, c.linear_num_value_heads
    keys, values = key_heads * c.linear_key_head_dim, heads * c.linear_value_head_dim
    widths = {"qkvz": 2 * keys + 2 * values, "ba": 2 * heads}
    if not fused:
        widths = {"qkv": 2 * keys + values, "z": values, "b": heads, "a": heads}
    channels = 2 * keys + values
    return GatedDelta(
        "linear_attn", key_heads, heads, c.linear_key_head_dim, c.linear_value_head_dim,
        activation=c.hidden_act,
        projections=tuple(Linear(f"in_proj_{name}", hidden, width) for name, width in widths.items()),
        conv=Conv("conv1d", channels, channels, (c.linear_conv_kernel_dim,), conv_groups=channels, bias=False),
        norm=rms("norm", c.linear_value_head_dim, "qwen3_next"),
        out_proj=Linear("out_proj", values, hidden),
    )  # fmt: skip


def norm(name: str, width: int) -> Norm:
    """Qwen3-Next's RMSNorm, times 1 + weight."""
    return rms(name, width, "gemma")
