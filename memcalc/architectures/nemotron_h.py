"""Nemotron-H and Nemotron 3: layers of one block each: Mamba-2, attention, an MLP or a mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, causal_lm, interleaved, plain_mlp, rms
from memcalc.architectures.experts import corrected_router, per_layer, stacked_experts
from memcalc.architectures.mamba import dual
from memcalc.blocks.base import residual
from memcalc.blocks.basic import Cast, Embedding, Linear
from memcalc.blocks.mlp import Moe

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.blocks.mlp import Mlp
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

_MARKS = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}


@architecture("nemotron_h")
def nemotron_h(c: Dimensions) -> Model:
    """A pattern of blocks such as 'MEMEM*E' (arXiv:2504.03624); attention has no positions, MLPs square their relu."""

    def layer(kind: str) -> Block:
        mixers = {"linear_attention": _mamba, "full_attention": _attention, "mlp": _mlp, "moe": _mixture}
        return residual(rms("norm", c.hidden_size, "gpt_oss"), mixers[kind](c))

    table = Embedding("embeddings", c.vocab_size, c.hidden_size)
    layers = interleaved("layers", block_types(c), layer)
    return causal_lm(c, table, layers, rms("norm_f", c.hidden_size, "gpt_oss"), logits=Cast(""))


def block_types(c: Dimensions) -> list[str]:
    """The block of every layer: listed, or a pattern of marks; their number is that of the layers."""
    pattern = [_MARKS[mark] for mark in c.get("hybrid_override_pattern") or "ME*-"]
    return per_layer(c, "layers_block_type", pattern, count=len(c.get("layers_block_type") or pattern))


def _mamba(c: Dimensions) -> Block:
    inner = c.mamba_num_heads * c.mamba_head_dim
    groups, kernel = c.get("mamba_n_groups") or c.n_groups, c.get("mamba_d_conv") or c.conv_kernel
    chunk, biased = c.get("mamba_chunk_size") or c.chunk_size, c.get("mamba_conv_bias", c.use_conv_bias)
    return dual(
        c, "mixer", inner, state=c.ssm_state_size, heads=c.mamba_num_heads, dim=c.mamba_head_dim, groups=groups,
        chunk=chunk, kernel=kernel, bias=c.use_bias, conv_bias=biased, activation=c.mamba_hidden_act,
    )  # fmt: skip


def _attention(c: Dimensions) -> Block:
    return attention(c, "mixer", rotary_dim=0)


def _mlp(c: Dimensions, name: str = "mixer", width: int = 0) -> Mlp:
    squared = c.but(hidden_act=c.mlp_hidden_act)
    return plain_mlp(squared, "up_proj", "down_proj", width or c.intermediate_size, name=name, bias=c.mlp_bias)


def _mixture(c: Dimensions) -> Moe:
    """Experts that are not gated, in a narrower latent space where `moe_latent_size` says so (Nemotron 3)."""
    hidden, latent, count = c.hidden_size, c.get("moe_latent_size"), c.n_routed_experts
    width, gate = c.moe_intermediate_size, corrected_router(c, count)
    experts = stacked_experts(c, count, width, hidden=latent or 0, gated=False, activation=c.mlp_hidden_act)
    shared = _mlp(c, "shared_experts", c.moe_shared_expert_intermediate_size)
    into = Linear("fc1_latent_proj", hidden, latent, c.mlp_bias) if latent else None
    out_of = Linear("fc2_latent_proj", latent, hidden, c.mlp_bias) if latent else None
    return Moe("mixer", gate, experts, shared, top_k=gate.top_k, into=into, out_of=out_of)
