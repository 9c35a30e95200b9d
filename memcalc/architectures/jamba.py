"""Jamba: Mamba layers with an attention layer among eight, mixtures in every second."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, causal_lm, gated_mlp, interleaved, rms, tokens
from memcalc.architectures.experts import mixture, router
from memcalc.architectures.mamba import dt_rank, selective
from memcalc.blocks.base import residual, sequence

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("jamba")
def jamba(c: Dimensions) -> Model:
    """Attention without positions and Mamba with normed dt, B and C (arXiv:2403.19887)."""
    count, hidden = c.num_hidden_layers, c.hidden_size

    def layer(kind: tuple[bool, bool]) -> Block:
        mixer = attention(c, rotary_dim=0) if kind[0] else _mamba(c)
        gate = router(c, c.num_experts, "router", normalized=False, cast_back=True)
        feed = mixture(c, gate, c.intermediate_size, "feed_forward") if kind[1] else gated_mlp(c, "feed_forward")
        mixed = residual(rms("input_layernorm", hidden), mixer)
        return sequence(mixed, residual(rms("pre_ff_layernorm", hidden), feed))

    attends = [i % c.attn_layer_period == c.attn_layer_offset for i in range(count)]
    mixes = [c.num_experts > 1 and i % c.expert_layer_period == c.expert_layer_offset for i in range(count)]
    layers = interleaved("layers", list(zip(attends, mixes, strict=True)), layer)
    return causal_lm(c, tokens(c), layers, rms("final_layernorm", hidden), tie="embed_tokens")


def _mamba(c: Dimensions) -> Block:
    inner, state, rank = c.mamba_expand * c.hidden_size, c.mamba_d_state, dt_rank(c, "mamba_dt_rank")
    norms = [rms("dt_layernorm", rank), rms("b_layernorm", state), rms("c_layernorm", state)]
    return selective(
        c, "mamba", inner, state=state, rank=rank, kernel=c.mamba_d_conv,
        bias=c.mamba_proj_bias, conv_bias=c.mamba_conv_bias, norms=norms,
    )  # fmt: skip
