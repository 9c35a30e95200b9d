"""Parakeet: Fast Conformer over mel frames, an eighth as many after its convolutions (Rekesh et al. 2023)."""

from __future__ import annotations

from dataclasses import replace
from math import log2
from typing import TYPE_CHECKING

from memcalc.architectures import architecture, model_of
from memcalc.architectures.decoder import layer_norm
from memcalc.architectures.heads import channels
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Param, Sequence, repeat, residual, sequence
from memcalc.blocks.basic import Activation, Conv, Linear, Norm, Scale
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.speech import ChannelsFirst, ConformerConvolution, Subsampled
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("parakeet_ctc")
def parakeet_ctc(c: Dimensions) -> Model:
    """The encoder under a convolution that makes scores of every frame; its loss asks for the lengths of what it hears."""
    e = c.encoder_config
    encoder = model_of(e.but(architectures=["ParakeetEncoder"], told_lengths=True))
    head = ChannelsFirst("ctc_head", (Conv("", e.hidden_size, c.vocab_size),))
    body = sequence(Sequence("encoder", tuple(encoder.body.parts())), head)
    return replace(encoder, body=body)


@architecture("parakeet_encoder")
def parakeet_encoder(c: Dimensions) -> Model:
    """Convolutions, and layers that are told where frames are by projected sinusoids of their distances."""
    masked = bool(c.get("told_lengths", False))
    layers = repeat("layers", c.num_hidden_layers, _layer(c, masked=masked))
    return Model(sequence(_subsampling(c, masked=masked), layers), kind="speech", loss_fp32=False)


def _subsampling(c: Dimensions, *, masked: bool) -> Subsampled:
    """One convolution, then pairs of depthwise and pointwise ones, each time half as many frames and mel bins."""
    width, size, stride = c.subsampling_conv_channels, c.subsampling_conv_kernel_size, c.subsampling_conv_stride
    count, relu = int(log2(c.subsampling_factor)), Activation("", "relu")
    strided = {"kernel": (size, size), "stride": stride, "padding": (size - 1) // 2}
    blocks: list[Block] = [Conv("layers.0", 1, width, **strided), relu]
    for index in range(2, 3 * count - 1, 3):
        deep = Conv(f"layers.{index}", width, width, conv_groups=width, **strided)
        blocks += [deep, Conv(f"layers.{index + 1}", width, width, (1, 1)), relu]
    project = Linear("linear", width * (c.num_mel_bins // stride**count), c.hidden_size, bias=True)
    return Subsampled(
        "subsampling", (*blocks, project), c.num_mel_bins, masked, float(c.dropout), float(c.dropout_positions)
    )


def _layer(c: Dimensions, *, masked: bool) -> Sequence:
    """Half a feed-forward, attention, convolution, half a feed-forward, norm."""
    norms = {name: layer_norm(f"norm_{name}", c.hidden_size) for name in ("self_att", "conv", "out")}
    first, last = (
        residual(layer_norm(f"norm_{name}", c.hidden_size), _feed_forward(c, name), Scale(""), named=(), lasting=kept)
        for name, kept in (("feed_forward1", ()), ("feed_forward2", (1,)))
    )
    return sequence(
        first, residual(norms["self_att"], _attention(c), lasting=(0, 1)),
        residual(_convolution(c, norms["conv"], masked=masked), lasting=(0,)), last, norms["out"],
    )  # fmt: skip


def _feed_forward(c: Dimensions, name: str) -> Mlp:
    hidden, width, bias = c.hidden_size, c.intermediate_size, bool(c.attention_bias)
    up, down = Linear("linear1", hidden, width, bias), Linear("linear2", width, hidden, bias)
    return Mlp(name, up, down, activation=c.hidden_act, width=width, dropout=float(c.activation_dropout))


def _convolution(c: Dimensions, before: Norm, *, masked: bool) -> Block:
    hidden, size, bias = c.hidden_size, c.conv_kernel_size, bool(c.convolution_bias)
    deep = Conv("conv.depthwise_conv", hidden, hidden, (size,), conv_groups=hidden, bias=bias, padding=(size - 1) // 2)
    blocks = (
        before, Conv("conv.pointwise_conv1", hidden, 2 * hidden, bias=bias), deep,
        Norm("conv.norm", hidden, "batch", "batch"), Activation("", c.hidden_act),
        Conv("conv.pointwise_conv2", hidden, hidden, bias=bias),
    )  # fmt: skip
    return ConformerConvolution("", blocks, turned=False, masked=masked)


def _attention(c: Dimensions) -> Attention:
    """Contents and distances have a bias each that queries are added to (Dai et al. 2019)."""
    hidden, heads, bias = c.hidden_size, c.num_attention_heads, bool(c.attention_bias)
    head = int(c.get("head_dim") or channels(hidden, heads))
    q, k, v = (Linear(f"{name}_proj", hidden, heads * head, bias) for name in "qkv")
    return Attention(
        "self_attn", heads, heads, head, q, k, v, out=Linear("o_proj", heads * head, hidden, bias), causal=False,
        scores_bias=True, bias_table=Linear("relative_k_proj", hidden, heads * head),
        extra=(Param("bias_u", (heads, head)), Param("bias_v", (heads, head))),
        dropout=float(c.attention_dropout), formula="parakeet",
    )  # fmt: skip
