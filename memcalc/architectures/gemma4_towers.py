"""Gemma 4's image and audio encoders."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, gated_mlp, rms
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Param, Sequence, repeat, residual, sequence
from memcalc.blocks.basic import Activation, Conv, Linear, Norm, Raw
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.padded import AxialRotary, Clipped, PaddedRows, PooledRows
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions

_BOUNDS = ("input_min", "input_max", "output_min", "output_max")


def clipped(c: Dimensions, linear: Linear) -> Block:
    """Gemma4ClippableLinear: the linear one level below, beside the bounds of its values where they are clipped."""
    inner = replace(linear, name="linear")
    if not c.use_clipped_linears:
        return Sequence(linear.name, (inner,))
    return Clipped(linear.name, (*(Raw(name, (), buffer=True) for name in _BOUNDS), inner))


@architecture("gemma4_vision")
def gemma4_vision(c: Dimensions) -> Model:
    """Gemma's sandwich layers over patches of any image, a table of positions per axis, pooled at the end."""
    dim, size = c.head_dim, c.patch_size
    rows = Linear("input_proj", 3 * size**2, c.hidden_size)
    start = PaddedRows("patch_embedder", (rows,), c.position_embedding_size, c.hidden_size)
    layers = sequence(AxialRotary("", dim), repeat("layers", c.num_hidden_layers, _layer(c, dim)), name="encoder")
    end = PooledRows("", c.pooling_kernel_size, c.hidden_size, bool(c.standardize))
    return Model(sequence(start, layers, end), "encoder")


def _layer(c: Dimensions, dim: int) -> Sequence:
    """x + norm(attention(norm(x))), then the same with the MLP, every linear one clippable."""
    plain = attention(c, causal=False, rotary_dim=dim, formula="gemma4-vision", rotation="own")
    normed = replace(
        plain,
        q_norm=_norm("q_norm", dim),
        k_norm=_norm("k_norm", dim),
        v_norm=Norm("v_norm", dim, "rms-no-weight", "gemma4"),
    )
    mixer = replace(normed, q=_clip(c, plain.q), k=_clip(c, plain.k), v=_clip(c, plain.v), out=_clip(c, plain.out))
    feed = gated_mlp(c)
    feed = replace(feed, gate=_clip(c, feed.gate), up=_clip(c, feed.up), down=_clip(c, feed.down))
    before, after, first, last = (_norm(f"{name}_layernorm", c.hidden_size) for name in _NORMS)
    return sequence(residual(before, mixer, after), residual(first, feed, last))


_NORMS = ("input", "post_attention", "pre_feedforward", "post_feedforward")


def _norm(name: str, width: int) -> Norm:
    return rms(name, width, "gemma4")


def _clip(c: Dimensions, linear: Block | None) -> Block | None:
    return clipped(c, linear) if isinstance(linear, Linear) else linear


@architecture("gemma4_audio")
def gemma4_audio(c: Dimensions) -> Model:
    """Mel frames through two strided convolutions and conformer layers (Gulati et al. 2020)."""
    first, second = c.subsampling_conv_channels
    start = sequence(
        _shrink("layer0", 1, first), _shrink("layer1", first, second),
        Linear("input_proj_linear", first // 4 * second, c.hidden_size), name="subsample_conv_projection",
    )  # fmt: skip
    end = Linear("output_proj", c.hidden_size, c.output_proj_dims, bias=True)
    return Model(sequence(start, repeat("layers", c.num_hidden_layers, _conformer(c)), end), "encoder")


def _shrink(name: str, before: int, width: int) -> Sequence:
    conv = Conv("conv", before, width, (3, 3), 2, bias=False, padding=1)
    return sequence(conv, Norm("norm", width, "layer-no-bias", "channels-first"), Activation("", "relu"), name=name)


def _conformer(c: Dimensions) -> Sequence:
    """x + half an MLP, attention, x + convolution, x + half an MLP, norm."""
    hidden = c.hidden_size
    mixer = residual(_norm("norm_pre_attn", hidden), _audio_attention(c), _norm("norm_post_attn", hidden))
    return sequence(
        _half(c, "feed_forward1"), mixer, _convolution(c), _half(c, "feed_forward2"), _norm("norm_out", hidden)
    )


def _half(c: Dimensions, name: str) -> Sequence:
    hidden, width = c.hidden_size, 4 * c.hidden_size
    up, down = clipped(c, Linear("ffw_layer_1", hidden, width)), clipped(c, Linear("ffw_layer_2", width, hidden))
    feed = Mlp("", up, down, activation=c.hidden_act, width=width)
    return sequence(residual(_norm("pre_layer_norm", hidden), feed, _norm("post_layer_norm", hidden)), name=name)


def _audio_attention(c: Dimensions) -> Attention:
    """Attention within chunks, with relative positions and a learned scale per channel of a head."""
    hidden, heads = c.hidden_size, c.num_attention_heads
    dim = hidden // heads
    q, k, v, out = (clipped(c, Linear(name, hidden, hidden)) for name in ("q_proj", "k_proj", "v_proj", "post"))
    chunk = c.attention_chunk_size + c.attention_context_left - 1 + c.attention_context_right
    return Attention(
        "self_attn", heads, heads, dim, q=q, k=k, v=v, out=out, extra=(Param("per_dim_scale", (dim,)),),
        before=(Linear("relative_k_proj", hidden, hidden),), causal=False, window=chunk,
        softcap=float(c.attention_logit_cap), formula="gemma4-audio",
    )  # fmt: skip


def _convolution(c: Dimensions) -> Sequence:
    """x + linear(act(norm(depthwise(glu(linear(norm(x)))))))."""
    hidden = c.hidden_size
    depthwise = Conv("depthwise_conv1d", hidden, hidden, (c.conv_kernel_size,), 1, hidden, bias=False)
    return sequence(
        residual(
            _norm("pre_layer_norm", hidden), clipped(c, Linear("linear_start", hidden, 2 * hidden)), Activation("", "glu"),
            depthwise, _norm("conv_norm", hidden), Activation("", c.hidden_act),
            clipped(c, Linear("linear_end", hidden, hidden)),
        ), name="lconv1d",
    )  # fmt: skip
