"""Gemma 1, 2 and 3 (text) and VaultGemma: scaled embeddings, norms of their own formula, softcaps, local layers."""

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
    window,
)
from memcalc.blocks.base import Block, Stack, repeat, residual, sequence
from memcalc.blocks.basic import Embedding, Norm, Softcap

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("gemma")
def gemma(c: Dimensions) -> Model:
    """Gemma: Llama with head_dim apart from hidden_size and embeddings scaled by √hidden (Gemma team 2024)."""
    mixer = attention(c, bias=c.attention_bias, causal=not c.get("use_bidirectional_attention"))
    layer = sequence(
        residual(norm(c, "input_layernorm"), mixer),
        residual(norm(c, "post_attention_layernorm"), gated_mlp(c)),
    )
    return frame(c, repeat("layers", c.num_hidden_layers, layer))


@architecture("gemma2")
def gemma2(c: Dimensions) -> Model:
    """Gemma 2: a norm before and behind each block, every other layer local, scores and logits capped."""
    return frame(c, interleaved("layers", alternating(c), lambda kind: sandwich(c, capped(c, kind))))


@architecture("vaultgemma")
def vaultgemma(c: Dimensions) -> Model:
    """VaultGemma: Gemma 2 with a norm before each block only (Google 2025)."""

    def layer(kind: str) -> Block:
        return sequence(
            residual(norm(c, "input_layernorm"), capped(c, kind)),
            residual(norm(c, "pre_feedforward_layernorm"), gated_mlp(c)),
        )

    return frame(c, interleaved("layers", alternating(c), layer))


@architecture("gemma3_text")
def gemma3_text(c: Dimensions) -> Model:
    """Gemma 3, text: five local layers to a global one, an RMSNorm of every head's query and key instead of caps."""
    both = bool(c.get("use_bidirectional_attention"))
    sees = window(c) // 2 + 1 if both else window(c)

    def layer(kind: str) -> Block:
        q, k = norm(c, "q_norm", head_dim(c)), norm(c, "k_norm", head_dim(c))
        seen = sees if kind == "sliding_attention" else 0
        mixer = attention(
            c,
            bias=c.attention_bias,
            window=seen,
            causal=not both,
            q_norm=q,
            k_norm=k,
            rotary_kind=kind,
            heads_first=True,
        )
        return sandwich(c, mixer)

    period = c.get("sliding_window_pattern", 6)
    kinds = layer_kinds(c, lambda i: "sliding_attention" if (i + 1) % period else "full_attention")
    return frame(c, interleaved("layers", kinds, layer))


def alternating(c: Dimensions) -> list[str]:
    """Local, global, local, global, unless the config says otherwise."""
    return layer_kinds(c, lambda i: "full_attention" if i % 2 else "sliding_attention")


def capped(c: Dimensions, kind: str) -> Attention:
    """Attention of a layer of this kind whose scores are cap * tanh(score / cap)."""
    seen = window(c) if kind == "sliding_attention" else 0
    causal = not c.get("use_bidirectional_attention")
    cap = float(c.get("attn_logit_softcapping") or 0.0)
    return attention(c, bias=c.attention_bias, window=seen, causal=causal, softcap=cap, eager_only=True)


def norm(c: Dimensions, name: str, width: int = 0) -> Norm:
    """GemmaRMSNorm: fp32 throughout, times 1 + weight."""
    return rms(name, width or c.hidden_size, "gemma")


def sandwich(c: Dimensions, mixer: Block) -> Block:
    """x + norm(mixer(norm(x))), then the same with the MLP."""
    return sequence(
        residual(norm(c, "input_layernorm"), mixer, norm(c, "post_attention_layernorm")),
        residual(norm(c, "pre_feedforward_layernorm"), gated_mlp(c), norm(c, "post_feedforward_layernorm")),
    )


def frame(c: Dimensions, layers: Stack) -> Model:
    """Scaled embeddings, the layers, a norm, a tied head whose logits may be capped."""
    embed = Embedding("embed_tokens", c.vocab_size, c.hidden_size, scaled=True)
    cap = float(c.get("final_logit_softcapping") or 0.0)
    logits = Softcap("", cap) if cap else None
    return causal_lm(c, embed, layers, norm(c, "norm"), tie="embed_tokens", logits=logits)
