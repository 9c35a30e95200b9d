"""Descendants of FLUX: Chroma, whose modulations are all made by one small network (lodestones, Chroma1)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import denoiser, feed_forward
from memcalc.architectures.dit import bare_norm
from memcalc.architectures.mmdit import context_embedder, flux_single, joint_attention, packed
from memcalc.blocks.base import repeat, residual
from memcalc.blocks.basic import Activation, Linear, Norm
from memcalc.blocks.diffusion import AxialRotary, JointBlock, Modulate, OneRow
from memcalc.blocks.streams import Approximator, PickedVectors

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("ChromaTransformer2DModel")
def chroma(c: Dimensions) -> Model:
    """FLUX without projections for its modulations: their vectors are picked from those that an approximator makes."""
    width, rotary = c.num_attention_heads * c.attention_head_dim, sum(c.axes_dims_rope)
    joint = JointBlock(
        "", width, PickedVectors("", 6, "image"), PickedVectors("", 6, "text"),
        joint_attention(c, width, "torch_rms_norm", rotary=rotary), None,
        feed_forward("ff", width, act="gelu-approximate"), feed_forward("ff_context", width, act="gelu-approximate"),
    )  # fmt: skip
    single = replace(flux_single(c, width, rotary), modulation=PickedVectors("", 3), formula="chroma")
    last = Linear("proj_out", width, c.patch_size**2 * (c.get("out_channels") or c.in_channels), bias=True)
    return denoiser(
        c, Linear("x_embedder", c.in_channels, width, bias=True), _approximator(c, width),
        context_embedder(c.joint_attention_dim, width), AxialRotary("", tuple(c.axes_dims_rope)),
        repeat("transformer_blocks", c.num_layers, joint), OneRow("", named="text"),
        repeat("single_transformer_blocks", c.num_single_layers, single), OneRow("", back=True, named="text"),
        PickedVectors("", 2), bare_norm(width), Modulate(""), last, text=512, image=packed(c),
    )  # fmt: skip


def _approximator(c: Dimensions, width: int) -> Approximator:
    """in_proj, layers x + linear_2(silu(linear_1(norm(x)))), out_proj, over a row of places."""
    inputs, inner = c.approximator_num_channels, c.approximator_hidden_dim
    layers = [
        residual(
            Norm(f"norms.{i}", inner, "rms", "olmo2"), Linear(f"layers.{i}.linear_1", inner, inner, bias=True),
            Activation("", "silu"), Linear(f"layers.{i}.linear_2", inner, inner, bias=True),
        )
        for i in range(c.approximator_layers)
    ]  # fmt: skip
    ends = Linear("in_proj", inputs, inner, bias=True), Linear("out_proj", inner, width, bias=True)
    count = 3 * c.num_single_layers + 12 * c.num_layers + 2
    return Approximator("distilled_guidance_layer", (ends[0], *layers, ends[1]), count, inputs)
