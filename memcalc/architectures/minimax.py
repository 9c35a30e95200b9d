"""MiniMax-01: lightning attention with full attention in between, experts in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import activation, attention, decoder, head_dim, interleaved, rms, window
from memcalc.architectures.experts import mixture, noises, per_layer, router
from memcalc.blocks.base import residual, sequence
from memcalc.blocks.basic import Linear, Scale
from memcalc.blocks.ssm import Lightning

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("minimax")
def minimax(c: Dimensions) -> Model:
    """The residual starts behind each norm, both sides scaled (arXiv:2501.08313)."""
    experts = mixture(c, router(c, c.num_local_experts), c.intermediate_size, noises=noises(c))
    feed = sequence(rms("post_attention_layernorm", c.hidden_size), residual(experts, Scale("")), Scale(""))

    def layer(kind: str) -> Block:
        mixer = _lightning(c) if kind == "linear_attention" else attention(c, window=window(c))
        return sequence(rms("input_layernorm", c.hidden_size), residual(mixer, Scale("")), Scale(""), feed)

    default = ["linear_attention" if i % 2 else "full_attention" for i in range(c.num_hidden_layers)]
    return decoder(c, interleaved("layers", per_layer(c, "layer_types", default), layer), qa="model")


def _lightning(c: Dimensions) -> Lightning:
    heads, dim, hidden = c.num_attention_heads, head_dim(c), c.hidden_size
    return Lightning(
        "self_attn", heads, dim, c.block_size, activation(c),
        qkv=Linear("qkv_proj", hidden, 3 * heads * dim), norm=rms("norm", heads * dim),
        gate=Linear("output_gate", hidden, heads * dim), out=Linear("out_proj", heads * dim, hidden),
    )  # fmt: skip
