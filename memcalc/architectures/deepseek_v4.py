"""DeepSeek-V4: compressed sparse attention, hyper-connected lanes, mixtures in every layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import causal_lm, gated_mlp, interleaved, rms, tokens
from memcalc.architectures.experts import mixture, per_layer, router, stacked_experts
from memcalc.blocks.base import sequence
from memcalc.blocks.basic import Linear, Norm
from memcalc.blocks.hyper import HyperConnection, HyperHead, HyperLanes, HyperResidual
from memcalc.blocks.mla import CompressedAttention, Compressor, CompressorIndexer

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.blocks.mlp import Moe
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

_RATIOS = {0: "sliding_attention", 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}
_RATES = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128}


@architecture("deepseek_v4")
def deepseek_v4(c: Dimensions) -> Model:
    """Each layer a window plus compressed keys, its residual stream `hc_mult` lanes wide (DeepseekV4ForCausalLM)."""
    hidden, lanes = c.hidden_size, c.hc_mult

    def layer(kind: tuple[str, str]) -> Block:
        attends = _branch(c, "attn_hc", "input_layernorm", _attention(c, kind[0]))
        return sequence(attends, _branch(c, "ffn_hc", "post_attention_layernorm", _mixture(c, kind[1])))

    kinds = list(zip(attention_types(c), mlp_types(c), strict=True))
    head = HyperHead("hc_head", lanes, hidden)
    spread = HyperLanes("", lanes, c.sliding_window, _rotary_dim(c))
    layers = interleaved("layers", kinds, layer)
    return causal_lm(c, tokens(c), spread, layers, head, _norm("norm", hidden), tie="embed_tokens")


def _branch(c: Dimensions, connection: str, norm: str, block: Block) -> HyperResidual:
    mixing = HyperConnection(connection, c.hc_mult, c.hidden_size, c.hc_sinkhorn_iters)
    return HyperResidual("", (_norm(norm, c.hidden_size), block), connection=mixing)


def attention_types(c: Dimensions) -> list[str]:
    """The kind of each layer's attention: listed, or by old `compress_ratios`, or heavy and sparse in turn."""
    count = c.num_hidden_layers
    if c.get("layer_types") or c.get("compress_ratios"):
        return list(c.get("layer_types") or [_RATIOS[ratio] for ratio in c.compress_ratios])[:count]
    heavy, light = "heavily_compressed_attention", "compressed_sparse_attention"
    return [light if i > 1 and i % 2 else heavy for i in range(count)]


def mlp_types(c: Dimensions) -> list[str]:
    """'hash_moe' for the first layers, whose experts are chosen by token id, 'moe' behind."""
    hashed = c.get("num_hash_layers", 3)
    count = c.num_hidden_layers
    listed = {"mlp_layer_types": c.mlp_layer_types[:count]} if c.get("mlp_layer_types") else {}
    return per_layer(c.but(**listed), "mlp_layer_types", ["hash_moe" if i < hashed else "moe" for i in range(count)])


def _attention(c: Dimensions, kind: str) -> CompressedAttention:
    hidden, heads, dim, rank, groups = c.hidden_size, c.num_attention_heads, c.head_dim, c.q_lora_rank, c.o_groups
    return CompressedAttention(
        "self_attn", heads, dim, _rotary_dim(c), c.sliding_window, rank, groups, c.o_lora_rank,
        q_a=Linear("q_a_proj", hidden, rank), q_norm=_norm("q_a_norm", rank),
        q_b=Linear("q_b_proj", rank, heads * dim), q_b_norm=Norm("q_b_norm", dim, "rms-no-weight"),
        kv=Linear("kv_proj", hidden, dim), kv_norm=_norm("kv_norm", dim), compressor=_compressor(c, kind),
        out_a=Linear("o_a_proj", heads * dim // groups, groups * c.o_lora_rank),
        out_b=Linear("o_b_proj", groups * c.o_lora_rank, hidden), dropout=float(c.attention_dropout or 0.0),
    )  # fmt: skip


def _rotary_dim(c: Dimensions) -> int:
    """Channels of a head that are rotated."""
    return int(c.get("qk_rope_head_dim") or c.head_dim * (c.get("partial_rotary_factor") or 64 / 512))


def _compressor(c: Dimensions, kind: str) -> Compressor | None:
    if kind == "sliding_attention":
        return None
    dim, hidden, sparse = c.head_dim, c.hidden_size, kind == "compressed_sparse_attention"
    width = dim * (2 if sparse else 1)
    kv, gate = Linear("kv_proj", hidden, width), Linear("gate_proj", hidden, width)
    indexer = _indexer(c) if sparse else None
    return Compressor("compressor", _rate(c, kind), dim, sparse, kv, gate, _norm("kv_norm", dim), indexer)


def _indexer(c: Dimensions) -> CompressorIndexer:
    heads, dim, hidden = c.index_n_heads, c.index_head_dim, c.hidden_size
    kv, gate = Linear("kv_proj", hidden, 2 * dim), Linear("gate_proj", hidden, 2 * dim)
    return CompressorIndexer(
        "indexer", _rate(c, "compressed_sparse_attention"), dim, True, kv, gate, _norm("kv_norm", dim),
        heads=heads, top_k=c.index_topk, q=Linear("q_b_proj", c.q_lora_rank, heads * dim),
        weights=Linear("scorer.weights_proj", hidden, heads),
    )  # fmt: skip


def _rate(c: Dimensions, kind: str) -> int:
    """Tokens to one compressed entry: `compress_rates`, or its old names."""
    old = c.get("compress_rate_csa" if kind == "compressed_sparse_attention" else "compress_rate_hca")
    return int(old or (c.get("compress_rates") or _RATES)[kind])


def _mixture(c: Dimensions, kind: str) -> Moe:
    count, width = c.n_routed_experts, c.moe_intermediate_size
    hashed, correction = kind == "hash_moe", "e_score_correction_bias"
    table = (c.vocab_size, c.num_experts_per_tok) if hashed else ()
    gate = router(
        c, count, scores="sigmoid", formula="deepseek_v4", table=table, correction="" if hashed else correction
    )
    shared = replace(gated_mlp(c, "shared_experts", width, bias=c.mlp_bias), formula="deepseek_v4")
    experts = stacked_experts(c, count, width, formula="deepseek_v4")
    return mixture(c, gate, width, experts=experts, shared=shared)


def _norm(name: str, width: int) -> Norm:
    return rms(name, width, "gpt_oss")
