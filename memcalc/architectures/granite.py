"""Granite 3 and HyperCLOVA X: Llama with embeddings, residuals and logits times constants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    causal_lm,
    gated_mlp,
    head_dim,
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

    def layer(kind: tuple[str, float]) -> Block:
        seen, theta = window(c) if kind[0] == "sliding_attention" else 0, kind[1]
        mixer = attention(
            c, bias=c.attention_bias, window=seen, sinks=True, rotary_dim=head_dim(c) if theta else 0,
            rotary_kind=str(theta), formula="granite_swa",
        )  # fmt: skip
        return _layer(c, mixer)

    kinds = layer_kinds(c, lambda i: "sliding_attention" if i % 4 else "full_attention")
    thetas = c.get("layer_rope_theta") or [1.0] * len(kinds)  # 0: no rotation; the default is one base for all
    return _frame(c, interleaved("layers", list(zip(kinds, thetas, strict=True)), layer))


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
