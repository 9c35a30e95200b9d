"""Llama-like decoders whose MLP has no gate: Nemotron, Arcee, Jais 2, Apertus, nanochat, Persimmon."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    causal_lm,
    decoder,
    dropout,
    fused_attention,
    head_dim,
    layer_norm,
    plain_mlp,
    pre_norm_layer,
    rms,
    rotary_dim,
    tokens,
)
from memcalc.blocks.base import Param, repeat, residual, sequence
from memcalc.blocks.basic import Norm, Softcap

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.blocks.mlp import Mlp
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("arcee")
def arcee(c: Dimensions) -> Model:
    """Llama with a squared ReLU (Arcee AI 2025)."""
    layer = pre_norm_layer(c, attention(c, bias=c.attention_bias), _mlp(c, bias=c.mlp_bias))
    return decoder(c, repeat("layers", c.num_hidden_layers, layer))


@architecture("nemotron")
def nemotron(c: Dimensions) -> Model:
    """LayerNorms that weigh by 1 + weight, a squared ReLU; half of each head rotates (Parmar 2024)."""
    return _layer_normed(
        c, attention(c, bias=c.attention_bias, rotary_dim=rotary_dim(c, 0.5), rotation="joined"), "nemotron"
    )


@architecture("jais2")
def jais2(c: Dimensions) -> Model:
    """LayerNorms and a squared ReLU (Inception 2025)."""
    return _layer_normed(c, attention(c, bias=c.attention_bias, rotary_dim=head_dim(c)))


def _layer_normed(c: Dimensions, mixer: Attention, formula: str = "") -> Model:
    """Pre-norm layers of this attention and a plain MLP."""
    first, second, last = (
        Norm(name, c.hidden_size, "layer", formula) for name in ("input_layernorm", "post_attention_layernorm", "norm")
    )
    mlp = _mlp(c, bias=c.mlp_bias)
    layers = repeat("layers", c.num_hidden_layers, residual(first, mixer), residual(second, mlp))
    return causal_lm(c, tokens(c), layers, last, tie="embed_tokens")


@architecture("apertus")
def apertus(c: Dimensions) -> Model:
    """xIELU, an activation with two parameters, and an RMSNorm of every head's query and key (Swiss AI 2025)."""
    q, k = rms("q_norm", head_dim(c)), rms("k_norm", head_dim(c))
    mixer, mlp = attention(c, bias=c.attention_bias, q_norm=q, k_norm=k, heads_first=True), _mlp(c, bias=False)
    if c.hidden_act == "xielu":
        learned = (Param("act_fn.alpha_p", (1,)), Param("act_fn.alpha_n", (1,)))
        fixed = (Param("act_fn.beta", (), buffer=True), Param("act_fn.eps", (), buffer=True))
        mlp = replace(mlp, extra=(*learned, *fixed))
    layer = sequence(
        residual(rms("attention_layernorm", c.hidden_size), mixer),
        residual(rms("feedforward_layernorm", c.hidden_size), mlp),
    )
    return decoder(c, repeat("layers", c.num_hidden_layers, layer))


@architecture("nanochat")
def nanochat(c: Dimensions) -> Model:
    """Norms without parameters, also of every head behind its rotation and of the embeddings (Karpathy 2025)."""
    q, k, first, second, embedded, last = (
        Norm("", n, "rms-no-weight") for n in (head_dim(c),) * 2 + (c.hidden_size,) * 4
    )
    mixer = attention(c, bias=c.attention_bias, q_norm=q, k_norm=k, formula="hunyuan")
    mlp = plain_mlp(c, "fc1", "fc2", c.intermediate_size, bias=False)
    layers = repeat("layers", c.num_hidden_layers, residual(first, mixer), residual(second, mlp))
    cap = float(c.get("final_logit_softcapping") or 0.0)
    return causal_lm(c, tokens(c), embedded, layers, last, tie="embed_tokens", logits=Softcap("", cap) if cap else None)


@architecture("persimmon")
def persimmon(c: Dimensions) -> Model:
    """LayerNorms, also of every head's query and key, one projection for q, k and v, biases throughout (Adept 2023)."""
    dim = c.hidden_size // c.num_attention_heads
    q, k = (layer_norm(name, dim) if c.qk_layernorm else None for name in ("q_layernorm", "k_layernorm"))
    mixer = fused_attention(
        c, "self_attn", "query_key_value", "dense", bias=True, rotary_dim=rotary_dim(c, 0.5), q_norm=q, k_norm=k,
        formula="persimmon",
    )  # fmt: skip
    mlp = plain_mlp(c, "dense_h_to_4h", "dense_4h_to_h", c.intermediate_size)
    layer = sequence(
        residual(layer_norm("input_layernorm", c.hidden_size), mixer),
        residual(layer_norm("post_attention_layernorm", c.hidden_size), mlp, dropout(c, "hidden_dropout")),
    )
    layers = repeat("layers", c.num_hidden_layers, layer)
    return causal_lm(c, tokens(c), layers, layer_norm("final_layernorm", c.hidden_size), tie="embed_tokens")


def _mlp(c: Dimensions, *, bias: bool) -> Mlp:
    return plain_mlp(c, "up_proj", "down_proj", c.intermediate_size, bias=bias)
