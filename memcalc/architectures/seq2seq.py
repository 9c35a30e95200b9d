"""What BART, Whisper and their kin share: attention, feed-forward and layers, with BART's names (Lewis et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.architectures.heads import channels
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, Unused, residual, sequence
from memcalc.blocks.basic import Dropout, Linear, Norm
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.seq2seq import HalfClamp

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


def attention(
    c: Dimensions,
    name: str,
    heads: int,
    *,
    causal: bool = False,
    cross: bool = False,
    bias: bool = True,
    key_bias: bool = True,
    **more: Any,  # noqa: ANN401 - what Attention takes
) -> Attention:
    """Multi-head attention over d_model with q_proj, k_proj, v_proj and out_proj (BartAttention)."""
    width, read = c.d_model, int(c.get("cross_attention_hidden_size") or c.d_model) if cross else c.d_model
    if c.traits.heads_in_batch:
        more["formula"] = "mvp"
    return Attention(
        name, heads, heads, channels(width, heads, f"{'decoder' if causal or cross else 'encoder'}_attention_heads"),
        q=Linear("q_proj", width, width, bias),
        k=Linear("k_proj", read, width, bias and key_bias),
        v=Linear("v_proj", read, width, bias),
        out=Linear("out_proj", width, width, bias),
        causal=causal, cross=cross, dropout=float(c.attention_dropout), softmax="scores",
        cut="keys", **more,
        eager_only=c.traits.eager_only,
    )  # fmt: skip


def feed_forward(c: Dimensions, width: int, name: str = "", *, bias: bool = True) -> Mlp:
    """fc2(dropout(act(fc1(x)))) of `width`."""
    up, down = Linear("fc1", c.d_model, width, bias), Linear("fc2", width, c.d_model, bias)
    activation, dropout = c.activation_function, float(c.activation_dropout)
    return Mlp(
        name, up=up, down=down, activation=activation, width=width, dropout=dropout, inline=not name, functional=True
    )


def dropout(c: Dimensions) -> Dropout:
    """Dropout of the hidden states."""
    return Dropout("", float(c.dropout), functional=True)


def norm(c: Dimensions, name: str) -> Norm:
    """LayerNorm over d_model."""
    return Norm(name, c.d_model, "layer")


def sublayer(c: Dimensions, block: Block, name: str, *, pre_norm: bool) -> Sequence:
    """x + dropout(block(norm(x))), or norm(x + dropout(block(x)))."""
    if pre_norm:
        return sequence(residual(norm(c, name), block, dropout(c), named=()))
    return sequence(residual(block, dropout(c), named=()), norm(c, name))


def encoder_layer(c: Dimensions, mixer: Block, *, pre_norm: bool) -> Sequence:
    """Self-attention and feed-forward."""
    return sequence(
        sublayer(c, mixer, "self_attn_layer_norm", pre_norm=pre_norm),
        sublayer(c, feed_forward(c, c.encoder_ffn_dim), "final_layer_norm", pre_norm=pre_norm),
        HalfClamp("", "clamp" if c.traits.clamps_halves else "look"),
    )


def decoder_layer(c: Dimensions, mixer: Block, cross: Block, *, pre_norm: bool, alone: bool = False) -> Sequence:
    """Self-attention, cross-attention (there, but idle where the decoder stands alone) and feed-forward."""
    crossing = sublayer(c, cross, "encoder_attn_layer_norm", pre_norm=pre_norm)
    return sequence(
        sublayer(c, mixer, "self_attn_layer_norm", pre_norm=pre_norm),
        Unused("", (crossing,)) if alone else crossing,
        sublayer(c, feed_forward(c, c.decoder_ffn_dim), "final_layer_norm", pre_norm=pre_norm),
    )
