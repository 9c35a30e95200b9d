"""gpt-oss: sliding and full attention in turn, a sink per head, biased experts in every layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, causal_lm, interleaved, rms, tokens, window
from memcalc.architectures.experts import mixture, per_layer, router, stacked_experts
from memcalc.blocks.base import repeat, residual, sequence

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("gpt_oss")
def gpt_oss(c: Dimensions) -> Model:
    """OpenAI's open mixture (arXiv:2508.10925): the softmax is over the chosen experts only; the gate is clamped."""
    hidden, count, width = c.hidden_size, c.num_local_experts, c.intermediate_size
    experts = stacked_experts(c, count, width, bias=True, transposed=True, formula="gpt_oss")
    gate = router(c, count, "router", bias=True, scores="softmax-chosen")
    feed = residual(rms("post_attention_layernorm", hidden, "gpt_oss"), mixture(c, gate, width, experts=experts))

    def layer(kind: str) -> Block:
        seen = window(c) if kind == "sliding_attention" else 0
        mixer = attention(c, bias=bool(c.attention_bias), sinks=True, window=seen, softmax="scores")
        return sequence(residual(rms("input_layernorm", hidden, "gpt_oss"), mixer), feed)

    default = ["full_attention" if i % 2 else "sliding_attention" for i in range(c.num_hidden_layers)]
    layers = interleaved("layers", per_layer(c, "layer_types", default), layer)
    return causal_lm(c, tokens(c), layers, rms("norm", hidden, "gpt_oss"), tie="embed_tokens")


NAMES = 33  # of what its checkpoint tells apart (OPENAI_PRIVACY_FILTER_NER_LABELS)


@architecture("openai_privacy_filter")
def openai_privacy_filter(c: Dimensions) -> Model:
    """gpt-oss as an encoder whose every token sees a window to both sides, and is classified (OpenAI 2026)."""
    hidden, count, width = c.hidden_size, c.num_local_experts, c.intermediate_size
    experts = stacked_experts(c, count, width, bias=True, transposed=True, activation="silu", formula="privacy")
    experts = replace(experts, implementation="eager")
    gate = router(c, count, "router", bias=True, scores="softmax-chosen", fp32=True)
    mixer = attention(
        c,
        bias=bool(c.attention_bias),
        sinks=True,
        window=window(c) + 1,
        causal=False,
        softmax="scores",
        formula="privacy",
    )
    layer = sequence(
        residual(rms("input_layernorm", hidden, "gpt_oss"), mixer),
        residual(rms("post_attention_layernorm", hidden, "gpt_oss"), mixture(c, gate, width, experts=experts)),
    )
    named = c if c.gives("num_labels") or c.gives("id2label") else c.but(num_labels=NAMES)
    layers = repeat("layers", c.num_hidden_layers, layer)
    return causal_lm(named, tokens(c), layers, rms("norm", hidden, "gpt_oss"))
