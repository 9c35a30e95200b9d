"""Cosmos: world models for video, of one stream that reads the text in every layer (NVIDIA 2025)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import attention, denoiser, feed_forward, latent
from memcalc.architectures.dit import bare_norm, heads
from memcalc.blocks.base import repeat
from memcalc.blocks.basic import Activation, Linear, Norm, Raw
from memcalc.blocks.cosmos import CosmosLayer, FrameCubes, NarrowModulation, NormedTime
from memcalc.blocks.diffusion import Condition, Modulate
from memcalc.blocks.image import Unflatten
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

COSMOS_TOKENS = 512  # max_sequence_length of its pipelines


@architecture("CosmosTransformer3DModel")
def cosmos(c: Dimensions) -> Model:
    """Layers modulated through a narrow layer; the first generation has learned places, and an autoencoder of its own."""
    if c.get("img_context_dim_in"):
        raise fault("model.img_context_dim_in", "Cosmos that reads an image's states beside the text's is not known")
    width, patch = c.num_attention_heads * c.attention_head_dim, tuple(c.patch_size)
    first = c.get("extra_pos_embed_type") == "learnable"
    channels = c.in_channels + bool(c.concat_padding_mask)
    cubes = FrameCubes(
        "", Linear("patch_embed.proj", channels * math.prod(patch), width), patch, c.attention_head_dim,
        bool(c.concat_padding_mask), _places(c, width, patch) if first else (),
    )  # fmt: skip
    time = NormedTime(
        "time_embed", Linear("t_embedder.linear_1", width, width), Linear("t_embedder.linear_2", width, 3 * width),
        Norm("norm", width, "rms", "t5"), width,
    )  # fmt: skip
    return denoiser(
        c, cubes, time, _text(c), repeat("transformer_blocks", c.num_layers, _layer(c, width)), _narrow(c, "norm_out", width, 2),
        bare_norm(width), Modulate(""), Linear("proj_out", width, math.prod(patch) * c.out_channels), Unflatten("", patch[-1]),
        text=COSMOS_TOKENS, image=latent(c, _size(c, first=first)), scale=(8, 8 if first else 4),
    )  # fmt: skip


def _size(c: Dimensions, *, first: bool) -> tuple[int, int, int]:
    """Frames, rows and columns of latents, as the pipelines make them: of one image where no frame is marked as given.

    diffusers 0.42, pipeline_cosmos_text2world.py, pipeline_cosmos2_text2image.py, pipeline_cosmos2_video2world.py: 121 frames
    of 704 x 1280 pixels, an image of 768 x 1360, 93 frames of 704 x 1280 and their mask for a channel.
    """
    if first:
        return 16, 88, 160
    return (24, 88, 160) if c.in_channels > c.out_channels else (1, 96, 170)


def _text(c: Dimensions) -> Condition | None:
    """What projects the text's states, where something does (Predict 2.5)."""
    if not c.use_crossattn_projection:
        return None
    project = Linear("0", c.crossattn_proj_in_channels, c.encoder_hidden_states_channels, bias=True)
    return Condition("crossattn_proj", (project, Activation("", "gelu")), tokens=True)


def _places(c: Dimensions, width: int, patch: tuple[int, ...]) -> tuple[Raw, ...]:
    counts = (most // size for most, size in zip(c.max_size, patch, strict=True))
    return tuple(
        Raw(f"learnable_pos_embed.pos_emb_{x}", (count, width)) for x, count in zip("thw", counts, strict=True)
    )


def _narrow(c: Dimensions, name: str, width: int, chunks: int) -> NarrowModulation:
    inner = c.adaln_lora_dim
    return NarrowModulation(name, Linear("linear_1", width, inner), Linear("linear_2", inner, chunks * width), chunks)


def _layer(c: Dimensions, width: int) -> CosmosLayer:
    q, k = (Norm(name, c.attention_head_dim, "rms", "t5") for name in ("norm_q", "norm_k"))
    own, cross = (
        attention(name, width, *heads(c), source, out_bias=False, q_norm=q, k_norm=k, formula="cosmos")
        for name, source in (("attn1", 0), ("attn2", c.text_embed_dim))
    )
    feed = feed_forward("ff", width, act="gelu", inner=int(c.mlp_ratio * width), bias=False)
    return CosmosLayer("", tuple(_narrow(c, f"norm{i}", width, 3) for i in (1, 2, 3)), (own, cross, feed))
