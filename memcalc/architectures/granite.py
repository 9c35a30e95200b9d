"""Granite 3 and HyperCLOVA X: Llama with embeddings, residuals and logits times constants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    causal_lm,
    gated_mlp,
    interleaved,
    layer_kinds,
    rms,
    tokens,
    window,
)
from memcalc.blocks.base import Block, Stack, repeat, residual, sequence
from memcalc.blocks.basic import Scale

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("granite")
def granite(c: Dimensions) -> Model:
    """x + s * f(norm(x)) (IBM 2024)."""
    return _frame(c, repeat("layers", c.num_hidden_layers, _layer(c, attention(c, bias=c.attention_bias))))


@architecture("granite_swa")
def granite_swa(c: Dimensions) -> Model:
    """Granite with an attention sink for every head, three local layers to a global one."""

    def layer(kind: str) -> Block:
        seen = window(c) if kind == "sliding_attention" else 0
        return _layer(c, attention(c, bias=c.attention_bias, window=seen, sinks=True))

    kinds = layer_kinds(c, lambda i: "sliding_attention" if i % 4 else "full_attention")
    return _frame(c, interleaved("layers", kinds, layer))


@architecture("hyperclovax")
def hyperclovax(c: Dimensions) -> Model:
    """Granite with a norm behind each block as well (NAVER 2025)."""
    behind = (rms(name, c.hidden_size) if c.use_post_norm else None for name in ("post_norm1", "post_norm2"))
    return _frame(c, repeat("layers", c.num_hidden_layers, _layer(c, attention(c, bias=c.attention_bias), *behind)))


def _layer(c: Dimensions, mixer: Block, first: Block | None = None, second: Block | None = None) -> Block:
    return sequence(
        residual(rms("input_layernorm", c.hidden_size), mixer, first, Scale("")),
        residual(rms("post_attention_layernorm", c.hidden_size), gated_mlp(c, bias=c.mlp_bias), second, Scale("")),
    )


def _frame(c: Dimensions, layers: Stack) -> Model:
    norm = rms("norm", c.hidden_size)
    return causal_lm(c, tokens(c), Scale(""), layers, norm, tie="embed_tokens", logits=Scale(""))
