"""Qwen 2 and 3: Llama with biased queries, keys and values, or with normed queries and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    decoder,
    gated_mlp,
    head_dim,
    interleaved,
    layer_kinds,
    pre_norm_layer,
    rms,
    window,
)

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("qwen2")
def qwen2(c: Dimensions) -> Model:
    """Qwen 1.5, 2 and 2.5: q, k and v have biases, the output projection has none (Yang et al. 2024)."""

    def layer(kind: str) -> Block:
        return pre_norm_layer(c, attention(c, bias=True, out_bias=False, window=seen(c, kind)), gated_mlp(c))

    return decoder(c, interleaved("layers", kinds(c), layer))


@architecture("qwen3")
def qwen3(c: Dimensions) -> Model:
    """Qwen 3: no biases, an RMSNorm of every head's query and key (Yang et al. 2025)."""

    def layer(kind: str) -> Block:
        q, k = rms("q_norm", head_dim(c)), rms("k_norm", head_dim(c))
        mixer = attention(c, bias=c.attention_bias, window=seen(c, kind), q_norm=q, k_norm=k)
        return pre_norm_layer(c, mixer, gated_mlp(c))

    return decoder(c, interleaved("layers", kinds(c), layer))


def kinds(c: Dimensions) -> list[str]:
    """Full attention, but a sliding window from layer max_window_layers on where the config uses windows."""
    sliding = bool(c.use_sliding_window and c.get("sliding_window"))
    return layer_kinds(c, lambda i: "sliding_attention" if sliding and i >= c.max_window_layers else "full_attention")


def seen(c: Dimensions, kind: str) -> int:
    """The window of a layer of this kind; 0 for all."""
    return window(c) if kind == "sliding_attention" and c.use_sliding_window else 0
