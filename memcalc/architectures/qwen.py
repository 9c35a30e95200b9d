"""Qwen 1 to 3: Llama with biased queries, keys and values, or with normed queries and keys."""

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
    pre_norm_layer,
    rms,
    tokens,
    window,
)
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, repeat, residual, sequence
from memcalc.blocks.basic import Linear
from memcalc.blocks.mlp import Mlp

if TYPE_CHECKING:
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


@architecture("qwen")
def qwen(c: Dimensions) -> Model:
    """Qwen 1 (modeling_qwen.py beside its weights): GPT-2's names, biased q, k and v in one, half an MLP for each half."""
    hidden, width = c.hidden_size, c.intermediate_size // 2
    mixer = Attention(
        "attn", c.num_attention_heads, c.num_attention_heads, c.kv_channels, rotary_dim=int(c.kv_channels * c.rotary_pct),
        qkv=Linear("c_attn", hidden, 3 * c.num_attention_heads * c.kv_channels, bias=True), dropout=c.attn_dropout_prob,
        out=Linear("c_proj", c.num_attention_heads * c.kv_channels, hidden, not c.no_bias),
    )  # fmt: skip
    gate, up = (Linear(name, hidden, width, not c.no_bias) for name in ("w2", "w1"))
    mlp = Mlp("mlp", up, Linear("c_proj", width, hidden, not c.no_bias), gate, activation="silu", width=width)
    layer = sequence(residual(rms("ln_1", hidden), mixer), residual(rms("ln_2", hidden), mlp))
    body = (
        tokens(c, "wte"),
        dropout(c, "emb_dropout_prob"),
        repeat("h", c.num_hidden_layers, layer),
        rms("ln_f", hidden),
    )
    return causal_lm(c, *body, prefix="transformer", context=c.seq_length)


def kinds(c: Dimensions) -> list[str]:
    """Full attention, but a sliding window from layer max_window_layers on where the config uses windows."""
    sliding = bool(c.use_sliding_window and c.get("sliding_window"))
    return layer_kinds(c, lambda i: "sliding_attention" if sliding and i >= c.max_window_layers else "full_attention")


def seen(c: Dimensions, kind: str) -> int:
    """The window of a layer of this kind; 0 for all."""
    return window(c) if kind == "sliding_attention" and c.use_sliding_window else 0
