"""Llama 4's text tower: layers without rotation in between, a shared expert beside one routed one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, causal_lm, gated_mlp, head_dim, interleaved, rms, tokens
from memcalc.architectures.experts import linear_router, mixture, stacked_experts
from memcalc.blocks.base import residual, sequence
from memcalc.blocks.basic import Norm

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.blocks.base import Block, Stack
    from memcalc.blocks.mlp import Moe
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("llama4_text")
def llama4_text(c: Dimensions) -> Model:
    """The text model by itself (Llama4ForCausalLM)."""
    return causal_lm(c, *llama4_tower(c), tie="embed_tokens")


def llama4_tower(c: Dimensions) -> tuple[Block, ...]:
    """Embedding, layers and norm."""
    return tokens(c), llama4_layers(c), rms("norm", c.hidden_size)


def llama4_layers(c: Dimensions) -> Stack:
    """Chunked rotary attention and, every `no_rope_layer_interval` layers, full attention without rotation."""
    sparse, every, count = moe_layers(c), c.no_rope_layer_interval, c.num_hidden_layers
    rotated = c.get("no_rope_layers") or [int((i + 1) % every != 0) for i in range(count)]

    def layer(kind: tuple[bool, bool]) -> Block:
        feed = _mixture(c) if kind[1] else gated_mlp(c, "feed_forward", c.intermediate_size_mlp)
        mixer = residual(rms("input_layernorm", c.hidden_size), _attention(c, rotated=kind[0]))
        return sequence(mixer, residual(rms("post_attention_layernorm", c.hidden_size), feed))

    return interleaved("layers", [(bool(rotated[i]), i in sparse) for i in range(count)], layer)


def moe_layers(c: Dimensions) -> set[int]:
    """The layers that are mixtures: every `interleave_moe_layer_step`-th, unless listed."""
    step = c.interleave_moe_layer_step
    listed = c.get("moe_layers")
    return set(range(step - 1, c.num_hidden_layers, step) if listed is None else listed)


def _attention(c: Dimensions, *, rotated: bool) -> Attention:
    """Weightless norms of queries and keys behind the rotation; without one, a temperature that grows with length."""
    normed = c.use_qk_norm and rotated
    norm = Norm("qk_norm", head_dim(c), "rms-no-weight", "llama4") if normed else None
    chunk, rotary = ((c.get("attention_chunk_size") or 0), head_dim(c)) if rotated else (0, 0)
    plain = attention(
        c,
        bias=bool(c.attention_bias),
        rotary_dim=rotary,
        window=chunk,
        softmax="scores",
        formula="llama4",
        rotary_fp32=True,
    )
    return replace(plain, q_norm=norm, k_norm=norm)


def _mixture(c: Dimensions) -> Moe:
    gate = linear_router(c, c.num_local_experts, "router", scores="sigmoid", normalized=False, formula="llama4")
    experts = stacked_experts(c, c.num_local_experts, c.intermediate_size, transposed=True, formula="llama4")
    shared = gated_mlp(c, "shared_expert")
    return mixture(c, gate, c.intermediate_size, "feed_forward", experts=experts, shared=shared, formula="llama4")
