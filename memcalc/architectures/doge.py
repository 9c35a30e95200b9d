"""Doge: a mask learned from the values, residuals scaled by channel, and (some) mixtures of single neurons."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    activation,
    attention,
    decoder,
    dropout,
    gated_mlp,
    head_dim,
    kv_heads,
    rms,
    window,
)
from memcalc.blocks.attention import DynamicAttention
from memcalc.blocks.base import Param, repeat, sequence
from memcalc.blocks.basic import Linear
from memcalc.blocks.doge import NeuronExperts, ScaledResidual

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("doge")
def doge(c: Dimensions) -> Model:
    """SmallDoge's Doge (2025): dynamic masks; `is_moe` puts neurons beside the MLP."""
    feed = _neurons(c) if c.is_moe else gated_mlp(c, bias=bool(c.mlp_bias))
    layer = sequence(
        _residual(c, "input_residual", rms("input_layernorm", c.hidden_size), _attention(c)),
        _residual(c, "post_attention_residual", rms("post_attention_layernorm", c.hidden_size), feed),
    )
    return decoder(c, repeat("layers", c.num_hidden_layers, layer))


def _residual(c: Dimensions, weight: str, *blocks: Block) -> ScaledResidual:
    dropped = dropout(c, "hidden_dropout", functional=True)
    return ScaledResidual("", (*blocks, dropped) if dropped else blocks, weight=weight, width=c.hidden_size)


def _attention(c: Dimensions) -> DynamicAttention:
    """DogeAttention, which is always given a mask."""
    kv, dim, bias = kv_heads(c), head_dim(c), bool(c.attention_bias)
    plain = attention(c, bias=bias, q_norm=rms("q_norm", dim), k_norm=rms("k_norm", dim))
    return DynamicAttention(
        plain.name, plain.heads, kv, dim, plain.q, plain.k, plain.v, out=plain.out, q_norm=plain.q_norm,
        k_norm=plain.k_norm, rotary_dim=plain.rotary_dim, dropout=plain.dropout, window=window(c), padded="always",
        gate=Linear("dt_proj", kv * dim, kv, bias), extra=(Param("A", (kv,)),), keep=c.keep_window_size, formula="doge",
    )  # fmt: skip


def _neurons(c: Dimensions) -> NeuronExperts:
    """DogeCDMoE."""
    hidden, width, bias, keys = c.hidden_size, c.intermediate_size, bool(c.mlp_bias), isqrt(c.num_experts)
    return NeuronExperts(
        "mlp", Linear("router_gate", hidden, 2 * keys), Linear("gate_proj", hidden, width, bias),
        Linear("up_proj", hidden, width, bias), Linear("down_proj", width, hidden, bias),
        c.num_experts, keys, c.num_experts_per_tok, hidden, activation(c),
    )  # fmt: skip
