"""HunyuanVideo: two streams, then both in one row, of video and of text that is refined first (Kong et al. 2024)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import attention, denoiser, embedded, feed_forward, latent
from memcalc.architectures.dit import bare_norm, heads, time_embedder
from memcalc.architectures.mmdit import flux_single, joint_attention, modulation, time_and_text
from memcalc.blocks.base import Sequence, sequence, stack
from memcalc.blocks.basic import Conv, Linear, Norm
from memcalc.blocks.diffusion import Modulate, ModulatedBlock, Modulation
from memcalc.blocks.image import Flatten, Unflatten
from memcalc.blocks.joint import JointBlock, SingleBlock
from memcalc.blocks.streams import GridAngles, TokenRefiner

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

FRAMES = (33, 90, 160)  # latents of 129 frames of 720 x 1280 pixels, as its pipeline makes them
TOKENS = 256  # max_sequence_length of its pipeline


@architecture("HunyuanVideoTransformer3DModel")
def hunyuan_video(c: Dimensions) -> Model:
    """FLUX's layers over patches of frames, of which the video's tokens alone are rotated."""
    width, patch = c.num_attention_heads * c.attention_head_dim, (c.patch_size_t, c.patch_size, c.patch_size)
    refined = _refiner(c, width)
    formula = "hunyuan-replaced" if c.get("image_condition_type") == "token_replace" else "hunyuan-video"
    joint = [replace(_joint(c, width), formula=formula)] * c.num_layers
    single = [replace(_single(c, width), formula=formula)] * c.num_single_layers
    out = c.out_channels or c.in_channels
    return denoiser(
        c, GridAngles("", tuple(c.rope_axes_dim), patch),
        time_and_text(width, c.pooled_projection_dim, guidance=bool(c.guidance_embeds)),
        sequence(Conv("proj", c.in_channels, width, patch, patch), Flatten(""), name="x_embedder"), refined,
        stack("transformer_blocks", [*joint]), stack("single_transformer_blocks", [*single]),
        modulation("norm_out", width, 2), bare_norm(width), Modulate(""),
        Linear("proj_out", width, math.prod(patch) * out, bias=True), Unflatten("", c.patch_size),
        text=TOKENS, image=latent(c, FRAMES), scale=(8, 4),
    )  # fmt: skip


def _refiner(c: Dimensions, width: int) -> TokenRefiner:
    """Time and the mean of the text's states, and layers gated by the sum of their embeddings."""
    pooled = embedded("text_embedder", c.text_embed_dim, width, given=True)
    mixer = attention("attn", width, *heads(c), bias=True, formula="masked")
    gates = Modulation("norm_out", Linear("linear", width, 2 * width, bias=True), 2)
    norms = Norm("norm1", width, "layer"), Norm("norm2", width, "layer")
    layer = ModulatedBlock("", gates, None, norms, mixer, None, feed_forward("ff", width, act="linear-silu"), "refiner")
    return TokenRefiner(
        "context_embedder", Sequence("time_text_embed", (time_embedder(width),)), Sequence("time_text_embed", (pooled,)),
        Linear("proj_in", c.text_embed_dim, width, bias=True),
        stack("token_refiner.refiner_blocks", [layer] * c.num_refiner_layers, "never"),
    )  # fmt: skip


def _joint(c: Dimensions, width: int) -> JointBlock:
    mixer = replace(joint_attention(c, width, c.qk_norm or "", rotary=sum(c.rope_axes_dim)), formula="hunyuan-video")
    first, second = (
        feed_forward(name, width, act="gelu-approximate", inner=int(c.mlp_ratio * width))
        for name in ("ff", "ff_context")
    )
    vectors = modulation("norm1", width, 6), modulation("norm1_context", width, 6)
    return JointBlock("", width, *vectors, mixer, None, first, second)


def _single(c: Dimensions, width: int) -> SingleBlock:
    return flux_single(
        c, width, sum(c.rope_axes_dim), inner=int(c.mlp_ratio * width), qk_norm=c.qk_norm or "", formula="hunyuan-video"
    )
