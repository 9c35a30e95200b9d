"""RecurrentGemma (Griffin): two gated linear recurrences to one local attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, causal_lm, gated_mlp, interleaved, rms, tokens
from memcalc.blocks.base import residual, sequence
from memcalc.blocks.basic import Conv, Linear, Scale, Softcap
from memcalc.blocks.ssm import RgLru

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.blocks.base import Block
    from memcalc.blocks.basic import Norm
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("recurrent_gemma")
def recurrent_gemma(c: Dimensions) -> Model:
    """Gemma's scaled embeddings and norms, soft-capped logits (arXiv:2404.07839); `intermediate_size` is both halves."""
    feed = residual(_norm(c, "channel_pre_norm"), gated_mlp(c, "mlp_block", c.intermediate_size // 2, bias=True))

    def layer(kind: str) -> Block:
        mixer = _recurrent(c) if kind == "recurrent" else _attention(c)
        return sequence(residual(_norm(c, "temporal_pre_norm"), mixer), feed)

    kinds = [c.block_types[i % len(c.block_types)] for i in range(c.num_hidden_layers)]
    layers, cap = interleaved("layers", kinds, layer), Softcap("", float(c.logits_soft_cap), nested=True)
    return causal_lm(c, tokens(c), Scale(""), layers, _norm(c, "final_norm"), tie="embed_tokens", logits=cap)


def _attention(c: Dimensions) -> Attention:
    dim = c.hidden_size // c.num_attention_heads
    plain = c.but(head_dim=dim)
    return attention(
        plain,
        "temporal_block",
        bias=bool(c.attention_bias),
        out_bias=True,
        rotary_dim=dim // 2,
        window=c.attention_window_size,
    )


def _recurrent(c: Dimensions) -> RgLru:
    hidden, width = c.hidden_size, c.get("lru_width") or c.hidden_size
    return RgLru(
        "temporal_block", width, c.num_attention_heads, c.hidden_activation,
        y=Linear("linear_y", hidden, width, bias=True), x=Linear("linear_x", hidden, width, bias=True),
        conv=Conv("conv_1d", width, width, (c.conv1d_width,), conv_groups=width),
        out=Linear("linear_out", width, hidden, bias=True),
    )  # fmt: skip


def _norm(c: Dimensions, name: str) -> Norm:
    return rms(name, c.hidden_size, "gemma")
