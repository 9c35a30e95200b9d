"""Bamba and Falcon-H1: Mamba-2 with attention in some layers, or beside it in every layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, causal_lm, gated_mlp, head_dim, interleaved, rms, tokens
from memcalc.architectures.mamba import dual
from memcalc.blocks.base import parallel, repeat, residual, sequence
from memcalc.blocks.basic import Scale

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.blocks.ssm import Mamba2
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("bamba")
def bamba(c: Dimensions) -> Model:
    """Mamba-2 with half-rotated attention in the layers that `attn_layer_indices` lists (IBM, 2024)."""
    attends = set(c.get("attn_layer_indices") or ())
    feed = residual(rms("pre_ff_layernorm", c.hidden_size), gated_mlp(c, "feed_forward", bias=c.mlp_bias))

    def layer(attend: bool) -> Block:
        half = attention(c, bias=bool(c.attention_bias), rotary_dim=head_dim(c) // 2)
        mixer = half if attend else bamba_mixer(c, bias=c.mamba_proj_bias)
        return sequence(residual(rms("input_layernorm", c.hidden_size), mixer), feed)

    layers = interleaved("layers", [i in attends for i in range(c.num_hidden_layers)], layer)
    z_loss = float(c.z_loss_coefficient) > 0
    return causal_lm(c, tokens(c), layers, rms("final_layernorm", c.hidden_size), tie="embed_tokens", z_loss=z_loss)


@architecture("falcon_h1")
def falcon_h1(c: Dimensions) -> Model:
    """Mamba-2 and attention read the same input, each scaled, and their sum is added (arXiv:2507.22448)."""
    width = int(c.get("mamba_d_ssm") or c.mamba_expand * c.hidden_size)
    mixer = bamba_mixer(c, bias=c.mamba_proj_bias, width=width, normed=c.mamba_rms_norm, out_bias=c.projectors_bias)
    attend = sequence(Scale(""), attention(c, bias=bool(c.attention_bias)), Scale(""))
    mixer = replace(mixer, scaled=True)
    both = parallel(sequence(mixer, Scale("")), attend, norm=rms("input_layernorm", c.hidden_size))
    feed = residual(rms("pre_ff_layernorm", c.hidden_size), gated_mlp(c, "feed_forward", bias=c.mlp_bias))
    layers, norm = repeat("layers", c.num_hidden_layers, both, feed), rms("final_layernorm", c.hidden_size)
    return causal_lm(c, tokens(c), Scale(""), layers, norm, tie="embed_tokens", logits=Scale(""))


def bamba_mixer(
    c: Dimensions, *, bias: bool, width: int = 0, normed: bool = True, out_bias: bool | None = None
) -> Mamba2:
    """Mamba-2's mixer in the words of Bamba's config; the heads' width follows from their number where it is 'auto'."""
    inner, heads = width or int(c.mamba_expand * c.hidden_size), c.mamba_n_heads
    return dual(
        c, "mamba", inner, state=c.mamba_d_state, heads=heads, dim=inner // heads, groups=c.mamba_n_groups,
        chunk=c.mamba_chunk_size, kernel=c.mamba_d_conv, bias=bias, conv_bias=c.mamba_conv_bias,
        normed=normed, out_bias=out_bias,
    )  # fmt: skip
