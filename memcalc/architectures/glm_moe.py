"""GLM-4.5 and mixtures with its shape: grouped-query attention in front of DeepSeek-V3's experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, decoder, head_dim, rms, rotary_dim
from memcalc.architectures.deepseek import dense_then_sparse
from memcalc.architectures.experts import corrected_router

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("glm4_moe")
def glm4_moe(c: Dimensions) -> Model:
    """Half-rotated attention with biased q, k, v, optional norms of queries and keys (arXiv:2508.06471)."""
    norms: dict[str, Any] = {}
    if c.use_qk_norm:
        norms = {"q_norm": rms("q_norm", head_dim(c)), "k_norm": rms("k_norm", head_dim(c))}
    mixer = attention(c, bias=bool(c.attention_bias), out_bias=False, rotary_dim=rotary_dim(c, 0.5), **norms)
    return decoder(c, dense_then_sparse(c, mixer, corrected_router(c, c.n_routed_experts)))


@architecture("solar_open")
def solar_open(c: Dimensions) -> Model:
    """Solar Open: the same without norms of queries and keys, experts in every layer, all channels rotated."""
    mixer = attention(c, bias=bool(c.attention_bias), out_bias=False, rotary_dim=rotary_dim(c))
    every = c.but(first_k_dense_replace=0)
    return decoder(c, dense_then_sparse(every, mixer, corrected_router(c, c.n_routed_experts)))
