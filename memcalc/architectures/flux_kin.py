"""Descendants of FLUX: Chroma, whose modulations are made by one small network; LongCat-Image, Bria 3.2 and Ovis-Image."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import denoiser, feed_forward
from memcalc.architectures.dit import bare_norm, time_embedder
from memcalc.architectures.mmdit import context_embedder, flux_single, joint_attention, modulation, packed, unpatched
from memcalc.blocks.base import repeat, residual, sequence
from memcalc.blocks.basic import Activation, Linear, Norm
from memcalc.blocks.diffusion import Condition, Modulate
from memcalc.blocks.joint import AxialRotary, JointBlock, OneRow
from memcalc.blocks.streams import Approximator, PickedVectors

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("ChromaTransformer2DModel")
def chroma(c: Dimensions) -> Model:
    """FLUX without projections for its modulations: their vectors are picked from those that an approximator makes."""
    width, rotary = c.num_attention_heads * c.attention_head_dim, sum(c.axes_dims_rope)
    joint = JointBlock(
        "", width, PickedVectors("", 6, "image"), PickedVectors("", 6, "text"),
        joint_attention(c, width, "torch_rms_norm", rotary=rotary), None,
        feed_forward("ff", width, act="gelu-approximate"), feed_forward("ff_context", width, act="gelu-approximate"), "flux",
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


@architecture("LongCatImageTransformer2DModel", "BriaTransformer2DModel")
def flux_without_pooled_text(c: Dimensions) -> Model:
    """FLUX told of the time step alone."""
    width = c.num_attention_heads * c.attention_head_dim
    time = sequence(time_embedder(width), name="time_embed")
    return _flux(c, width, time, context_embedder(c.joint_attention_dim, width))


@architecture("OvisImageTransformer2DModel")
def ovis_image(c: Dimensions) -> Model:
    """The same with gated MLPs, and the text normed first."""
    width = c.num_attention_heads * c.attention_head_dim
    norm = Norm("context_embedder_norm", c.joint_attention_dim, "rms", "olmo2")
    context = Condition("", (norm, Linear("context_embedder", c.joint_attention_dim, width, bias=True)), tokens=True)
    return _flux(c, width, time_embedder(width), context, gated=True)


def _flux(c: Dimensions, width: int, time: Block, context: Block, *, gated: bool = False) -> Model:
    """The image embedded, the time step, the text, tables; joint layers, then layers over both in one row."""
    rotary, act = sum(c.axes_dims_rope), "swiglu" if gated else "gelu-approximate"
    mixer = replace(joint_attention(c, width, "torch_rms_norm", rotary=rotary), strided=gated)
    joint = JointBlock(
        "", width, modulation("norm1", width, 6), modulation("norm1_context", width, 6), mixer, None,
        feed_forward("ff", width, act=act), feed_forward("ff_context", width, act=act), "flux",
    )  # fmt: skip
    single = flux_single(c, width, rotary)
    if gated:
        single = replace(single, up=Linear("proj_mlp", width, 8 * width, bias=True), activation="swiglu")
    out = c.patch_size**2 * (c.get("out_channels") or c.in_channels)
    return denoiser(
        c, Linear("x_embedder", c.in_channels, width, bias=True), time, context, AxialRotary("", tuple(c.axes_dims_rope)),
        repeat("transformer_blocks", c.num_layers, joint),
        repeat("single_transformer_blocks", c.num_single_layers, single), *unpatched(width, out, 0),
        text=512, image=packed(c), edits=True,
    )  # fmt: skip
