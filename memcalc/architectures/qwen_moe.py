"""Qwen's mixtures: experts in every layer or every n-th, beside a shared expert (Qwen2) or alone (Qwen3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    decoder,
    gated_mlp,
    head_dim,
    interleaved,
    pre_norm_layer,
    rms,
    window,
)
from memcalc.architectures.experts import mixture, per_layer, router, shared_expert

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("qwen2_moe")
def qwen2_moe(c: Dimensions) -> Model:
    """Qwen2's attention (biased q, k, v), fine experts and a gated shared one (arXiv:2407.10671)."""

    def layer(kind: tuple[str, bool]) -> Block:
        seen = window(c) if kind[0] == "sliding_attention" else 0
        return pre_norm_layer(c, attention(c, bias=c.qkv_bias, out_bias=False, window=seen), feed_forward(c, kind[1]))

    slides = [c.use_sliding_window and i % 2 == 0 and i < c.max_window_layers for i in range(c.num_hidden_layers)]
    kinds = per_layer(c, "layer_types", ["sliding_attention" if s else "full_attention" for s in slides])
    return decoder(c, interleaved("layers", list(zip(kinds, sparse_layers(c), strict=True)), layer), qa="model")


@architecture("qwen3_moe")
def qwen3_moe(c: Dimensions) -> Model:
    """Queries and keys normalised per head, 128 experts, none shared (arXiv:2505.09388)."""
    mixer = qk_normed(c, bias=c.attention_bias, window=window(c) if c.use_sliding_window else 0)

    def layer(sparse: bool) -> Block:
        return pre_norm_layer(c, mixer, feed_forward(c, sparse, shared=False))

    return decoder(c, interleaved("layers", sparse_layers(c), layer))


@architecture("mellum")
def mellum(c: Dimensions) -> Model:
    """JetBrains' Mellum 2: Qwen3's layers, some of them sliding, some dense where the config lists them."""

    def layer(kind: tuple[str, str]) -> Block:
        seen = window(c) if kind[0] == "sliding_attention" else 0
        mixer = qk_normed(c, bias=c.attention_bias, window=seen)
        return pre_norm_layer(c, mixer, feed_forward(c, kind[1] == "sparse", shared=False))

    count = c.num_hidden_layers
    kinds = zip(
        per_layer(c, "layer_types", ["full_attention"] * count),
        per_layer(c, "mlp_layer_types", ["sparse"] * count),
        strict=True,
    )
    return decoder(c, interleaved("layers", list(kinds), layer))


def qk_normed(c: Dimensions, **more: Any) -> Attention:  # noqa: ANN401 - fields of Attention
    """Rotary grouped-query attention whose queries and keys are normalised per head."""
    return attention(c, q_norm=rms("q_norm", head_dim(c)), k_norm=rms("k_norm", head_dim(c)), **more)


def sparse_layers(c: Dimensions) -> list[bool]:
    """Which layers are mixtures: every `decoder_sparse_step`-th, but for `mlp_only_layers`."""
    dense, step = set(c.get("mlp_only_layers") or ()), c.decoder_sparse_step
    return [i not in dense and c.num_experts > 0 and (i + 1) % step == 0 for i in range(c.num_hidden_layers)]


def feed_forward(c: Dimensions, sparse: bool, *, shared: bool = True) -> Block:
    """A mixture with Qwen's shared expert beside it, or a plain gated MLP."""
    if not sparse:
        return gated_mlp(c)
    beside = shared_expert(c, c.shared_expert_intermediate_size) if shared else {}
    gate = router(c, c.num_experts, normalized=bool(c.norm_topk_prob), cast_back=True)
    return mixture(c, gate, c.moe_intermediate_size, **beside)
