"""MiniMax-M3's text tower: sparse attention chosen by blocks of keys, fused clamped MLPs, experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, causal_lm, head_dim, interleaved, rms, rotary_dim, tokens
from memcalc.architectures.experts import mixture, per_layer, router, stacked_experts
from memcalc.blocks.base import residual, sequence
from memcalc.blocks.basic import Linear
from memcalc.blocks.mla import Indexer
from memcalc.blocks.mlp import Mlp

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.blocks.basic import Norm
    from memcalc.blocks.mlp import Moe
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("minimax_m3_vl_text", "minimax_m3")
def minimax_m3(c: Dimensions) -> Model:
    """Layers as the lists say: sparse or full attention, mixture or dense (transformers, MiniMaxM3VLTextModel)."""
    old, count = c.get("sparse_attention_config") or {}, c.num_hidden_layers
    listed = ["minimax_m3_sparse" if on else "full_attention" for on in old.get("sparse_attention_freq") or [0] * count]
    mixed = ["sparse" if on else "dense" for on in c.get("moe_layer_freq") or [1] * count]

    def layer(kind: tuple[str, str]) -> Block:
        feed = _mixture(c) if kind[1] == "sparse" else _mlp(c, "mlp", c.dense_intermediate_size)
        mixer = _attention(c, sparse=kind[0] == "minimax_m3_sparse")
        return sequence(
            residual(_norm("input_layernorm", c.hidden_size), mixer),
            residual(_norm("post_attention_layernorm", c.hidden_size), feed),
        )

    kinds = list(zip(per_layer(c, "layer_types", listed), per_layer(c, "mlp_layer_types", mixed), strict=True))
    layers, norm = interleaved("layers", kinds, layer), _norm("norm", c.hidden_size)
    return causal_lm(c, tokens(c), layers, norm, tie="embed_tokens")


def _attention(c: Dimensions, *, sparse: bool) -> Block:
    dim = head_dim(c)
    before = (_indexer(c),) if sparse else ()
    norms = _norm("q_norm", dim), _norm("k_norm", dim)
    return attention(c, q_norm=norms[0], k_norm=norms[1], rotary_dim=rotary_dim(c), before=before, formula="minimax_m3")


def _indexer(c: Dimensions) -> Indexer:
    old = c.get("sparse_attention_config") or {}
    heads, dim = old.get("sparse_num_index_heads", c.index_n_heads), old.get("sparse_index_dim", c.index_head_dim)
    blocks, size = old.get("sparse_topk_blocks", c.index_topk_blocks), old.get("sparse_block_size", c.index_block_size)
    return Indexer(
        "indexer", heads, dim, rotary_dim(c), blocks * size, block=size,
        q=Linear("q_proj", c.hidden_size, heads * dim), k=Linear("k_proj", c.hidden_size, dim),
        q_norm=_norm("q_norm", dim), k_norm=_norm("k_norm", dim),
    )  # fmt: skip


def _mlp(c: Dimensions, name: str, width: int) -> Mlp:
    up, down = Linear("gate_up_proj", c.hidden_size, 2 * width), Linear("down_proj", width, c.hidden_size)
    return Mlp(name, up, down, fused=True, width=width, formula="gpt_oss")


def _mixture(c: Dimensions) -> Moe:
    count, width = c.num_local_experts, c.intermediate_size
    gate = router(c, count, scores="sigmoid", correction="e_score_correction_bias", formula="minimax_m2")
    experts = stacked_experts(c, count, width, formula="minimax_m3")
    shared = _mlp(c, "shared_experts", c.shared_intermediate_size)
    return mixture(c, gate, width, experts=experts, shared=shared, shared_first=True, scales=True)


def _norm(name: str, width: int) -> Norm:
    return rms(name, width, "gemma")
