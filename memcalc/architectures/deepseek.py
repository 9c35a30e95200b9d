"""DeepSeek and the mixtures built like it: fine experts beside shared ones, latent attention, sparse indexers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, decoder, gated_mlp, interleaved, layer_norm, pre_norm_layer, rms
from memcalc.architectures.experts import corrected_router, mixture, per_layer, router
from memcalc.blocks.base import repeat, residual, sequence
from memcalc.blocks.basic import Linear
from memcalc.blocks.gated import GatedNorm
from memcalc.blocks.mla import Indexer, Mla
from memcalc.blocks.mlp import Moe

if TYPE_CHECKING:
    from memcalc.blocks.base import Block, Stack
    from memcalc.blocks.mlp import Router
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("deepseek")
def deepseek(c: Dimensions) -> Model:
    """DeepSeekMoE (arXiv:2401.06066): Llama's attention, separate small experts and shared ones (remote code)."""
    mixer = attention(c, bias=bool(c.attention_bias))
    count, width = c.get("n_routed_experts") or 0, c.moe_intermediate_size
    beside = gated_mlp(c, "shared_experts", width * c.n_shared_experts) if c.get("n_shared_experts") else None
    gate = router(c, count, fp32=True, normalized=c.norm_topk_prob) if count else None
    experts = repeat("experts", count, gated_mlp(c, "", width))
    sparse = Moe("mlp", gate, experts, beside, top_k=gate.top_k) if gate else gated_mlp(c)
    mixed = [i >= c.first_k_dense_replace and i % c.moe_layer_freq == 0 for i in range(c.num_hidden_layers)]
    return decoder(c, interleaved("layers", mixed, lambda m: pre_norm_layer(c, mixer, sparse if m else gated_mlp(c))))


@architecture("deepseek_v2")
def deepseek_v2(c: Dimensions) -> Model:
    """Latent attention and a softmax router; the first layers are dense (arXiv:2405.04434)."""
    gate = router(c, c.n_routed_experts, fp32=True, normalized=False)
    return decoder(c, dense_then_sparse(c, latent_attention(c, formula="deepseek_v2"), gate, bias=c.mlp_bias))


@architecture("deepseek_v3", "kimi_k2")
def deepseek_v3(c: Dimensions) -> Model:
    """Latent attention and a sigmoid router whose correction balances the experts (arXiv:2412.19437)."""
    mixer = latent_attention(c, interleaved=bool(c.rope_interleave))
    return decoder(c, dense_then_sparse(c, mixer, corrected_router(c, c.n_routed_experts)))


@architecture("mistral4")
def mistral4(c: Dimensions) -> Model:
    """Mistral Small 4: DeepSeek-V3's attention with DeepSeek-V2's kind of router."""
    gate = router(c, c.n_routed_experts, normalized=bool(c.norm_topk_prob))
    return decoder(c, dense_then_sparse(c, latent_attention(c, interleaved=bool(c.rope_interleave)), gate))


@architecture("deepseek_v32")
def deepseek_v32(c: Dimensions) -> Model:
    """DeepSeek-V3.2: an indexer chooses the keys a query sees."""
    return _indexed(c, shares=False)


@architecture("glm_moe_dsa")
def glm_moe_dsa(c: Dimensions) -> Model:
    """GLM-5: the same, its indexer rotated in pairs; GLM-5.2 shares its choice among layers."""
    return _indexed(c, shares=True)


def _indexed(c: Dimensions, *, shares: bool) -> Model:
    """Layers whose keys are chosen; `shares` where a choice is handed on."""
    mixers = {
        "full": latent_attention(c, indexer=replace(indexer(c), interleaved=shares), hands_on=shares),
        "shared": latent_attention(c, reuses=True, hands_on=shares),
    }
    feeds = {"sparse": sparse(c, corrected_router(c, experts_of(c))), "dense": gated_mlp(c)}
    kinds = list(zip(indexer_types(c), mlp_types(c), strict=True))
    return decoder(c, interleaved("layers", kinds, lambda kind: pre_norm_layer(c, mixers[kind[0]], feeds[kind[1]])))


@architecture("axk1")
def axk1(c: Dimensions) -> Model:
    """A.X K1: DeepSeek-V3's layers with a norm behind each mixture (SKT, 2025)."""
    dense, every, count = c.get("first_k_dense_replace", 1), c.get("moe_layer_freq", 1), c.num_hidden_layers
    default = ["sparse" if i >= dense and i % every == 0 else "dense" for i in range(count)]
    experts = replace(sparse(c, corrected_router(c, c.n_routed_experts)), norm=rms("post_mlp_layernorm", c.hidden_size))
    mixer, feeds = latent_attention(c, interleaved=bool(c.rope_interleave)), {"sparse": experts, "dense": gated_mlp(c)}
    kinds = per_layer(c, "mlp_layer_types", default)
    return decoder(c, interleaved("layers", kinds, lambda kind: pre_norm_layer(c, mixer, feeds[kind])))


@architecture("axk2")
def axk2(c: Dimensions) -> Model:
    """A.X K2: DeepSeek-V3.2's attention, its output gated, and norms that gate themselves ahead of it and of experts."""
    heads, width = c.num_attention_heads, c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim
    queries = Linear("q_gate_proj", 2 * c.q_lora_rank, heads * width)
    mixer = replace(latent_attention(c, indexer=indexer(c), formula="axk2"), q_b=queries)
    feeds = {"sparse": sparse(c, corrected_router(c, c.n_routed_experts)), "dense": gated_mlp(c)}
    norms = {
        "sparse": _gated_norm(c, "post_attention_layernorm"),
        "dense": rms("post_attention_layernorm", c.hidden_size),
    }
    attends = residual(_gated_norm(c, "input_layernorm"), mixer)
    dense, every, count = c.get("first_k_dense_replace", 1), c.get("moe_layer_freq", 1), c.num_hidden_layers
    default = ["sparse" if i >= dense and i % every == 0 else "dense" for i in range(count)]
    kinds = per_layer(c, "mlp_layer_types", default)
    return decoder(c, interleaved("layers", kinds, lambda kind: sequence(attends, residual(norms[kind], feeds[kind]))))


def _gated_norm(c: Dimensions, name: str) -> GatedNorm:
    """AXK2GatedRMSNorm."""
    hidden, rank = c.hidden_size, c.gated_norm_rank
    return GatedNorm(name, rms("norm", hidden), Linear("mlp.fc1", hidden, rank), Linear("mlp.fc2", rank, hidden))


@architecture("glm4_moe_lite")
def glm4_moe_lite(c: Dimensions) -> Model:
    """GLM-4.7-Flash: DeepSeek-V3's attention and experts behind one dense layer."""
    mixer = latent_attention(c, interleaved=bool(c.rope_interleave))
    feeds = {"sparse": sparse(c, corrected_router(c, c.n_routed_experts)), "dense": gated_mlp(c)}
    kinds = mlp_types(c.but(first_k_dense_replace=1))
    return decoder(c, interleaved("layers", kinds, lambda kind: pre_norm_layer(c, mixer, feeds[kind])))


def dense_then_sparse(c: Dimensions, mixer: Block, gate: Router, *, bias: bool = False) -> Stack:
    """`first_k_dense_replace` layers with a gated MLP, then layers with a mixture, each behind the mixer."""

    def layer(mixed: bool) -> Block:
        return pre_norm_layer(c, mixer, sparse(c, gate, bias=bias) if mixed else gated_mlp(c, bias=bias))

    return interleaved("layers", [i >= c.first_k_dense_replace for i in range(c.num_hidden_layers)], layer)


def sparse(c: Dimensions, gate: Router, *, bias: bool = False) -> Moe:
    """Routed experts of moe_intermediate_size and, in one MLP, `n_shared_experts` that every token meets."""
    width = c.moe_intermediate_size
    return mixture(c, gate, width, shared=gated_mlp(c, "shared_experts", width * c.n_shared_experts, bias=bias))


def latent_attention(c: Dimensions, name: str = "self_attn", **more: Any) -> Mla:  # noqa: ANN401 - fields of Mla
    """Queries through a latent of `q_lora_rank` (or straight where that is null), keys and values through another."""
    hidden, heads, rank, kv = c.hidden_size, c.num_attention_heads, c.get("q_lora_rank"), c.kv_lora_rank
    nope, rope, value, bias = c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim, bool(c.attention_bias)
    queries: dict[str, Any] = {"q": Linear("q_proj", hidden, heads * (nope + rope))}
    if rank is not None:
        up = Linear("q_b_proj", rank, heads * (nope + rope))
        queries = {"q_a": Linear("q_a_proj", hidden, rank, bias), "q_norm": rms("q_a_layernorm", rank), "q_b": up}
    return Mla(
        name, heads, nope, rope, value, kv, rank or 0, **queries,
        kv_a=Linear("kv_a_proj_with_mqa", hidden, kv + rope, bias), kv_norm=rms("kv_a_layernorm", kv),
        kv_b=Linear("kv_b_proj", kv, heads * (nope + value)), out=Linear("o_proj", heads * value, hidden, bias),
        dropout=float(c.get("attention_dropout") or 0.0), **more,
    )  # fmt: skip


def indexer(c: Dimensions) -> Indexer:
    """Small heads that score every key for every query and keep `index_topk` (DeepSeek-V3.2)."""
    heads, dim = c.index_n_heads, c.index_head_dim
    return Indexer(
        "indexer", heads, dim, c.qk_rope_head_dim, c.index_topk,
        q=Linear("wq_b", c.q_lora_rank, heads * dim), k=Linear("wk", c.hidden_size, dim),
        k_norm=layer_norm("k_norm", dim), weights=Linear("weights_proj", c.hidden_size, heads),
    )  # fmt: skip


def indexer_types(c: Dimensions) -> list[str]:
    """Which layers have an indexer ('full') and which reuse the last choice ('shared'): GlmMoeDsaConfig."""
    freq, offset = max(c.get("index_topk_freq", 1), 1), c.get("index_skip_topk_offset", 2)
    default = ["full" if max(i - offset + 1, 0) % freq == 0 else "shared" for i in range(c.num_hidden_layers)]
    pattern = [{"F": "full", "S": "shared"}.get(mark, mark) for mark in c.get("index_topk_pattern") or ()]
    return per_layer(c, "indexer_types", pattern or default)


def mlp_types(c: Dimensions) -> list[str]:
    """'dense' for the first `first_k_dense_replace` layers, 'sparse' behind, unless listed."""
    dense = c.first_k_dense_replace
    return per_layer(c, "mlp_layer_types", ["dense" if i < dense else "sparse" for i in range(c.num_hidden_layers)])


def experts_of(c: Dimensions) -> int:
    """Routed experts; an old `num_experts` overrides (GlmMoeDsaConfig)."""
    return int(c.get("num_experts") or c.n_routed_experts)
