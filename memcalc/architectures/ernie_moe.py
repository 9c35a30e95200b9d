"""ERNIE 4.5, Hunyuan, FlexOlmo, EXAONE and dots: mixtures with a turn of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    causal_lm,
    decoder,
    gated_mlp,
    head_dim,
    interleaved,
    kv_heads,
    pre_norm_layer,
    rms,
    tokens,
    window,
)
from memcalc.architectures.deepseek import mlp_types, sparse
from memcalc.architectures.experts import corrected_router, mixture, per_layer, router
from memcalc.architectures.qwen_moe import qk_normed
from memcalc.blocks.base import Param, repeat, residual, sequence
from memcalc.blocks.mlp import LinearRouter

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("ernie4_5_moe")
def ernie4_5_moe(c: Dimensions) -> Model:
    """A softmax router with a frozen correction, mixtures in an interval of the layers (ERNIE 4.5, 2025)."""
    width, last = c.moe_intermediate_size, c.moe_layer_end_index
    last = c.num_hidden_layers - 1 if last == -1 else last
    frozen = Param("moe_statics.e_score_correction_bias", (1, c.moe_num_experts), trainable=False, dtype="fp32")
    count = c.moe_num_experts
    gate = router(c, count, fp32=True, stored="fp32", cast_back=True, formula="ernie4_5_moe", extra=(frozen,))
    count = c.moe_num_shared_experts
    shared = gated_mlp(c, "shared_experts", width * count, bias=c.use_bias) if count else None
    feeds = {True: mixture(c, gate, width, shared=shared, shared_first=True), False: gated_mlp(c, bias=c.use_bias)}
    kinds = [
        (i + 1) % c.moe_layer_interval == 0 and c.moe_layer_start_index <= i <= last for i in range(c.num_hidden_layers)
    ]
    mixer = attention(c, bias=c.use_bias, dropout=0.0, rotation="pairs-fp32", rotary_fp32=True)
    layers = interleaved("layers", kinds, lambda kind: pre_norm_layer(c, mixer, feeds[kind]))
    return decoder(c, layers, head_bias=c.use_bias)


@architecture("hunyuan_v1_moe")
def hunyuan_v1_moe(c: Dimensions) -> Model:
    """Queries and keys normalised behind the rotation; a shared MLP as wide as the experts (Hunyuan-A13B)."""
    top = c.moe_topk[0] if isinstance(c.moe_topk, list) else c.moe_topk
    gate = LinearRouter("gate.wg", c.hidden_size, c.num_experts, top, fp32=True, formula="hunyuan", stored="fp32")
    feed = mixture(c, gate, c.intermediate_size, shared=gated_mlp(c, "shared_mlp"), shared_first=True)
    q_norm, k_norm = rms("query_layernorm", head_dim(c)), rms("key_layernorm", head_dim(c))
    mixer = attention(c, bias=bool(c.attention_bias), formula="hunyuan", q_norm=q_norm, k_norm=k_norm)
    return decoder(c, repeat("layers", c.num_hidden_layers, pre_norm_layer(c, mixer, feed)))


@architecture("hy_v3")
def hy_v3(c: Dimensions) -> Model:
    """Hunyuan 3: queries and keys normalised per head, a sigmoid router behind one dense layer."""
    gate = router(c, c.num_experts, scores="sigmoid", fp32=True, formula="hy_v3")
    correction = Param("e_score_correction_bias", (c.num_experts,), buffer=True, dtype="fp32")
    width, beside = c.moe_intermediate_size, c.num_shared_experts
    shared = gated_mlp(c, "shared_experts", width * beside, bias=c.mlp_bias) if beside else None
    feeds = {
        "sparse": mixture(c, gate, width, shared=shared, extra=(correction,)),
        "dense": gated_mlp(c, bias=c.mlp_bias),
    }
    mixer, kinds = qk_normed(c, bias=bool(c.attention_bias)), mlp_types(c.but(first_k_dense_replace=1))
    return decoder(c, interleaved("layers", kinds, lambda kind: pre_norm_layer(c, mixer, feeds[kind])))


@architecture("flex_olmo")
def flex_olmo(c: Dimensions) -> Model:
    """OLMo 2's norms behind each branch, experts trained apart and joined (arXiv:2507.07024)."""
    dim = head_dim(c)
    q_norm, k_norm = _wide("q_norm", c.num_attention_heads * dim), _wide("k_norm", kv_heads(c) * dim)
    mixer = attention(
        c, bias=bool(c.attention_bias), q_norm=q_norm, k_norm=k_norm, rotary_fp32=True, cut="all"
    )  # fmt: skip
    feed = mixture(c, router(c, c.num_experts, normalized=c.norm_topk_prob, cast_back=True), c.intermediate_size)
    layer = sequence(
        residual(mixer, _wide("post_attention_layernorm", c.hidden_size)),
        residual(feed, _wide("post_feedforward_layernorm", c.hidden_size)),
    )
    layers, norm = repeat("layers", c.num_hidden_layers, layer), _wide("norm", c.hidden_size)
    return causal_lm(c, tokens(c), layers, norm, tie="embed_tokens")


@architecture("exaone_moe")
def exaone_moe(c: Dimensions) -> Model:
    """EXAONE 4's attention, which rotates only where it slides, and DeepSeek-V3's experts."""
    every, width = c.get("sliding_window_pattern") or 0, c.moe_intermediate_size
    shared = gated_mlp(c, "shared_experts", width * c.num_shared_experts) if c.num_shared_experts else None
    feeds = {"sparse": mixture(c, corrected_router(c, c.num_experts), width, shared=shared), "dense": gated_mlp(c)}

    def layer(kind: tuple[str, str]) -> Block:
        slides = kind[0] == "sliding_attention"
        rotary = head_dim(c) if slides or not window(c) else 0
        mixer = qk_normed(c, rotary_dim=rotary, window=window(c) if slides else 0)
        return pre_norm_layer(c, mixer, feeds[kind[1]])

    slides = [bool(every) and bool(window(c)) and (i + 1) % every != 0 for i in range(c.num_hidden_layers)]
    kinds = per_layer(c, "layer_types", ["sliding_attention" if s else "full_attention" for s in slides])
    return decoder(c, interleaved("layers", list(zip(kinds, mlp_types(c), strict=True)), layer))


@architecture("dots1")
def dots1(c: Dimensions) -> Model:
    """Queries and keys normalised per head in front of DeepSeek-V3's experts; late layers may slide (arXiv:2506.05767)."""
    gate, count = corrected_router(c, c.n_routed_experts), c.num_hidden_layers

    def layer(kind: tuple[str, bool]) -> Block:
        mixer = qk_normed(c, bias=bool(c.attention_bias), window=window(c) if kind[0] == "sliding_attention" else 0)
        return pre_norm_layer(c, mixer, sparse(c, gate) if kind[1] else gated_mlp(c))

    slides = [bool(window(c)) and i >= c.max_window_layers for i in range(count)]
    kinds = per_layer(c, "layer_types", ["sliding_attention" if s else "full_attention" for s in slides])
    mixed = [i >= c.first_k_dense_replace for i in range(count)]
    return decoder(c, interleaved("layers", list(zip(kinds, mixed, strict=True)), layer))


def _wide(name: str, width: int) -> Block:
    return rms(name, width, "gpt_oss")
