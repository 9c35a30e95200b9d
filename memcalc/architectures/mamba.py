"""Mamba, Falcon-Mamba and Mamba-2: layers of one state-space mixer each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import causal_lm, rms
from memcalc.blocks.base import Residual, repeat
from memcalc.blocks.basic import Cast, Conv, Embedding, Linear, Norm
from memcalc.blocks.ssm import Mamba, Mamba2

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("mamba", "falcon_mamba")
def mamba(c: Dimensions) -> Model:
    """Selective state spaces only (arXiv:2312.00752); Falcon-Mamba normalises dt, B and C without weights."""
    inner, state, rank = int(c.get("intermediate_size") or c.expand * c.hidden_size), c.state_size, dt_rank(c)
    sizes = {"dt_layernorm": inner, "b_layernorm": state, "c_layernorm": state}
    norms = [Norm(name, size, "rms-no-weight") for name, size in sizes.items() if c.traits.normed_states]
    return _backbone(c, selective(
        c, "mixer", inner, state=state, rank=rank, kernel=c.conv_kernel,
        bias=c.use_bias, conv_bias=c.use_conv_bias, norms=norms,
    ))  # fmt: skip


@architecture("mamba2")
def mamba2(c: Dimensions) -> Model:
    """State space duality: heads with one decay each (arXiv:2405.21060)."""
    inner = int(c.expand * c.hidden_size)
    return _backbone(c, dual(
        c, "mixer", inner, state=c.state_size, heads=c.num_heads, dim=c.head_dim, groups=c.n_groups,
        chunk=c.chunk_size, kernel=c.conv_kernel, bias=c.use_bias, conv_bias=c.use_conv_bias,
    ))  # fmt: skip


def _backbone(c: Dimensions, mixer: Block) -> Model:
    layer = Residual("", (rms("norm", c.hidden_size), mixer), fp32=c.residual_in_fp32)
    table, layers = Embedding("embeddings", c.vocab_size, c.hidden_size), repeat("layers", c.num_hidden_layers, layer)
    return causal_lm(
        c,
        table,
        layers,
        rms("norm_f", c.hidden_size),
        Cast("", "weights"),
        prefix="backbone",
        tie="embeddings",
        logits=Cast(""),
    )


def dt_rank(c: Dimensions, key: str = "time_step_rank") -> int:
    """Rank of the time step: hidden / 16 rounded up where it says 'auto'."""
    return math.ceil(c.hidden_size / 16) if c[key] == "auto" else int(c[key])


def depthwise(channels: int, kernel: int, *, bias: bool) -> Conv:
    """The causal convolution over a few tokens, each channel by itself."""
    return Conv("conv1d", channels, channels, (kernel,), conv_groups=channels, bias=bias)


def selective(
    c: Dimensions,
    name: str,
    inner: int,
    *,
    state: int,
    rank: int,
    kernel: int,
    bias: bool,
    conv_bias: bool,
    norms: list[Norm],
) -> Mamba:
    """Mamba's mixer of `inner` channels with `state` values each (MambaMixer)."""
    return Mamba(
        name, inner, state, rank, c.hidden_act,
        in_proj=Linear("in_proj", c.hidden_size, 2 * inner, bias), conv=depthwise(inner, kernel, bias=conv_bias),
        x_proj=Linear("x_proj", inner, rank + 2 * state), norms=tuple(norms),
        dt_proj=Linear("dt_proj", rank, inner, bias=True), out_proj=Linear("out_proj", inner, c.hidden_size, bias),
    )  # fmt: skip


def dual(
    c: Dimensions,
    name: str,
    inner: int,
    *,
    state: int,
    heads: int,
    dim: int,
    groups: int,
    chunk: int,
    kernel: int,
    bias: bool,
    conv_bias: bool,
    activation: str = "",
    normed: bool = True,
    out_bias: bool | None = None,
) -> Mamba2:
    """Mamba-2's mixer: `heads` of `dim` channels, B and C of `state` values in `groups` (Mamba2Mixer)."""
    norm = Norm("norm", inner, "rms", "mamba2", inner // groups) if normed else None
    channels = inner + 2 * groups * state
    return Mamba2(
        name, inner, state, heads, dim, groups, chunk, activation or c.hidden_act,
        in_proj=Linear("in_proj", c.hidden_size, inner + channels + heads, bias),
        conv=depthwise(channels, kernel, bias=conv_bias), norm=norm,
        out_proj=Linear("out_proj", inner, c.hidden_size, bias if out_bias is None else out_bias),
    )  # fmt: skip
