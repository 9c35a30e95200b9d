"""Llama and its kin: pre-norm decoders with RMSNorm, rotary grouped-query attention and a gated MLP."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    decoder,
    dropout,
    gated_mlp,
    head_dim,
    interleaved,
    layer_kinds,
    pre_norm_layer,
    rms,
    window,
)
from memcalc.blocks.base import Param, repeat, residual, sequence
from memcalc.blocks.basic import Linear

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("llama", "internlm3", "iquestcoder")
def llama(c: Dimensions) -> Model:
    """Pre-norm decoder with RMSNorm, rotary grouped-query attention and a gated MLP (Touvron et al. 2023)."""
    layer = pre_norm_layer(c, attention(c, bias=c.attention_bias), gated_mlp(c, bias=c.mlp_bias))
    return decoder(c, repeat("layers", c.num_hidden_layers, layer))


@architecture("mistral", "ministral3")
def mistral(c: Dimensions) -> Model:
    """Llama with a sliding window in every layer, where it has one (Jiang et al. 2023)."""
    layer = pre_norm_layer(c, attention(c, window=window(c)), gated_mlp(c))
    return decoder(c, repeat("layers", c.num_hidden_layers, layer), qa="model")


@architecture("ministral", "cwm")
def ministral(c: Dimensions) -> Model:
    """Llama with some layers local, as `layer_types` says (Ministral: all; CWM: all but every fourth)."""
    every, local = c.traits.full_attention_every, bool(window(c))
    kinds = layer_kinds(
        c, lambda i: "sliding_attention" if local and not (every and i % every == 0) else "full_attention"
    )

    def layer(kind: str) -> Block:
        seen = window(c) if kind == "sliding_attention" else 0
        return pre_norm_layer(c, attention(c, window=seen), gated_mlp(c, bias=bool(c.get("mlp_bias"))))

    return decoder(c, interleaved("layers", kinds, layer))


@architecture("ernie4_5")
def ernie4_5(c: Dimensions) -> Model:
    """Llama with one switch for all biases, and interleaved rotary positions in fp32 (Baidu 2025)."""
    mixer = attention(c, bias=bool(c.use_bias), rotation="pairs-fp32", rotary_fp32=True)
    layers = repeat("layers", c.num_hidden_layers, pre_norm_layer(c, mixer, gated_mlp(c, bias=bool(c.use_bias))))
    return decoder(c, layers)


@architecture("helium")
def helium(c: Dimensions) -> Model:
    """Llama with interleaved rotary positions; the output projection is square and never biased (Kyutai 2025)."""
    mixer = attention(c, bias=c.attention_bias, rotation="pairs-whole")
    mixer = replace(mixer, out=Linear("o_proj", c.hidden_size, c.hidden_size))
    layer = pre_norm_layer(c, mixer, gated_mlp(c, bias=c.mlp_bias), "helium")
    return decoder(c, repeat("layers", c.num_hidden_layers, layer), "helium")


@architecture("seed_oss")
def seed_oss(c: Dimensions) -> Model:
    """Llama with biased q, k and v, and dropout behind both blocks (ByteDance Seed 2025)."""
    mixer = attention(c, bias=c.attention_bias, out_bias=c.attention_out_bias)
    layer = sequence(
        residual(rms("input_layernorm", c.hidden_size), mixer, dropout(c, "residual_dropout", functional=True)),
        residual(
            rms("post_attention_layernorm", c.hidden_size),
            gated_mlp(c, bias=c.mlp_bias),
            dropout(c, "residual_dropout", functional=True),
        ),
    )
    return decoder(c, repeat("layers", c.num_hidden_layers, layer))


@architecture("hunyuan_v1_dense")
def hunyuan_v1_dense(c: Dimensions) -> Model:
    """Llama with an RMSNorm of every head's query and key behind their rotation (Tencent 2025)."""
    q, k = rms("query_layernorm", head_dim(c)), rms("key_layernorm", head_dim(c))
    mixer = attention(c, bias=c.attention_bias, q_norm=q, k_norm=k, formula="hunyuan")
    return decoder(c, repeat("layers", c.num_hidden_layers, pre_norm_layer(c, mixer, gated_mlp(c))))


@architecture("bitnet")
def bitnet(c: Dimensions) -> Model:
    """Llama with an RMSNorm ahead of each block's last projection (Ma et al. 2024); weights as trained, unquantised."""
    mixer = attention(c, bias=c.attention_bias)
    mixer = replace(mixer, out=sequence(rms("attn_sub_norm", c.hidden_size), mixer.out))
    mlp = replace(gated_mlp(c), norm=rms("ffn_sub_norm", c.intermediate_size))
    return decoder(c, repeat("layers", c.num_hidden_layers, pre_norm_layer(c, mixer, mlp)))


@architecture("diffllama")
def diffllama(c: Dimensions) -> Model:
    """Llama whose attention is the difference of two softmaxes (Ye et al. 2024)."""
    learned = tuple(Param(f"lambda_{name}", (head_dim(c),)) for name in ("q1", "k1", "q2", "k2"))
    mixer = attention(c, bias=c.attention_bias, extra=learned, formula="diffllama")
    return decoder(c, repeat("layers", c.num_hidden_layers, pre_norm_layer(c, mixer, gated_mlp(c))))
