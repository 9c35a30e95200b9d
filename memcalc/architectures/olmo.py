"""OLMo 1, 2 and 3: norms without parameters, then norms behind the blocks and of queries and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    causal_lm,
    gated_mlp,
    head_dim,
    interleaved,
    kv_heads,
    layer_kinds,
    rms,
    tokens,
    window,
)
from memcalc.blocks.base import Block, repeat, residual, sequence
from memcalc.blocks.basic import Norm

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("olmo")
def olmo(c: Dimensions) -> Model:
    """Llama with LayerNorms that have no parameters, and clipped queries, keys and values (Groeneveld et al. 2024)."""
    mixer = attention(c, bias=c.attention_bias, clip=float(c.get("clip_qkv") or 0.0), rotary_fp32=True, cut="all")
    layer = sequence(
        residual(_plain("input_layernorm", c), mixer),
        residual(_plain("post_attention_layernorm", c), gated_mlp(c)),
    )
    layers = repeat("layers", c.num_hidden_layers, layer)
    return causal_lm(c, tokens(c), layers, _plain("norm", c), tie="embed_tokens")


@architecture("olmo2")
def olmo2(c: Dimensions) -> Model:
    """x + norm(f(x)), with an RMSNorm over all queries and one over all keys (OLMo team 2025)."""
    layers = repeat("layers", c.num_hidden_layers, post_norm_layer(c, normed_attention(c)))
    return causal_lm(c, tokens(c), layers, norm("norm", c.hidden_size), tie="embed_tokens")


@architecture("olmo3")
def olmo3(c: Dimensions) -> Model:
    """OLMo 2 with three local layers to a global one (OLMo team 2025)."""

    def layer(kind: str) -> Block:
        return post_norm_layer(c, normed_attention(c, window(c) if kind == "sliding_attention" else 0, kind))

    kinds = layer_kinds(c, lambda i: "sliding_attention" if (i + 1) % 4 else "full_attention")
    layers = interleaved("layers", kinds, layer)
    return causal_lm(c, tokens(c), layers, norm("norm", c.hidden_size), tie="embed_tokens")


def norm(name: str, width: int) -> Norm:
    """Olmo2RMSNorm: the weight is applied in fp32, before the cast back."""
    return rms(name, width, "olmo2")


def normed_attention(c: Dimensions, seen: int = 0, kind: str = "") -> Attention:
    """Attention with an RMSNorm over the whole width of the queries and one over the keys."""
    dim = head_dim(c)
    q, k = norm("q_norm", c.num_attention_heads * dim), norm("k_norm", kv_heads(c) * dim)
    return attention(
        c, bias=c.attention_bias, window=seen, q_norm=q, k_norm=k, rotary_fp32=True, rotary_kind=kind, cut="all"
    )


def post_norm_layer(c: Dimensions, mixer: Block) -> Block:
    """x + norm(mixer(x)), then x + norm(mlp(x))."""
    return sequence(
        residual(mixer, norm("post_attention_layernorm", c.hidden_size)),
        residual(gated_mlp(c), norm("post_feedforward_layernorm", c.hidden_size)),
    )


def _plain(name: str, c: Dimensions) -> Norm:
    """OlmoLayerNorm: F.layer_norm in fp32 without weight or bias."""
    return Norm(name, c.hidden_size, "none", "olmo")
