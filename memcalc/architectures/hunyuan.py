"""HunyuanVideo and HunyuanImage: two streams, then both in one row, with text that is refined first (Kong et al. 2024)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import interleaved
from memcalc.architectures.diffusers import attention, denoiser, embedded, feed_forward, latent
from memcalc.architectures.dit import bare_norm, heads, time_embedder
from memcalc.architectures.mmdit import flux_single, joint_attention, modulation, time_and_text
from memcalc.blocks.base import Sequence, Stray, Unused, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Embedding, Linear, Norm
from memcalc.blocks.diffusion import Modulate, ModulatedBlock, Modulation
from memcalc.blocks.image import Flatten, Unflatten
from memcalc.blocks.joint import JointAttention, JointBlock, SingleBlock
from memcalc.blocks.streams import GridAngles, MixedTexts, TokenRefiner

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
        modulation("norm_out", width, 2), bare_norm(width), Modulate("", once=True),
        Linear("proj_out", width, math.prod(patch) * out, bias=True), Unflatten("", c.patch_size),
        text=TOKENS, image=latent(c, FRAMES), scale=(8, 4),
    )  # fmt: skip


GLYPHS, SEMANTICS = 256, 729  # states of ByT5 and of an image, as its pipeline has them
LATENTS = (31, 30, 53)  # of 121 frames of 480 x 848 pixels
LONG_TOKENS = 1000  # tokenizer_max_length of its pipeline


@architecture("HunyuanVideo15Transformer3DModel")
def hunyuan_video_15(c: Dimensions) -> Model:
    """Joint layers alone; texts of two encoders and an image's states in one row."""
    width, patch = c.num_attention_heads * c.attention_head_dim, (c.patch_size_t, c.patch_size, c.patch_size)
    ends = [i == c.num_layers - 1 for i in range(c.num_layers)]
    layers = interleaved("transformer_blocks", ends, lambda last: _text_ends(_joint(c, width), last=last))
    time = time_embedder(width)
    later = Unused("time_embed", (replace(time, name="timestep_embedder_r"),)) if c.use_meanflow else None
    return denoiser(
        c, GridAngles("", tuple(c.rope_axes_dim), patch), Sequence("time_embed", (time,)), later,
        sequence(Conv("proj", c.in_channels, width, patch, patch), Flatten(""), name="x_embedder"),
        _refiner(c, width), _mixed(c, width), layers,
        modulation("norm_out", width, 2), bare_norm(width), Modulate("", once=True),
        Linear("proj_out", width, math.prod(patch) * (c.get("out_channels") or c.in_channels), bias=True),
        Unflatten("", c.patch_size), text=LONG_TOKENS, image=latent(c, LATENTS), scale=(16, 4),
    )  # fmt: skip


def _text_ends(block: JointBlock, *, last: bool) -> JointBlock:
    """The last one's text tokens are brought up to date for nothing."""
    block = replace(block, formula="hunyuan-video")
    mixer, feed = block.attention, block.context_mlp
    if not (last and isinstance(mixer, JointAttention) and mixer.context_out and feed):
        return block
    mixer = replace(mixer, context_out=Stray("", (mixer.context_out,)))
    return replace(block, attention=mixer, context_mlp=Stray("", (feed,)))


def _mixed(c: Dimensions, width: int) -> MixedTexts:
    """HunyuanVideo15ImageProjection, HunyuanVideo15ByT5TextProjection, and what tells the three kinds apart."""
    image = c.image_embed_dim
    return MixedTexts(
        "",
        sequence(
            Norm("norm_in", image, "layer"), Linear("linear_1", image, image, bias=True), Activation("", "gelu"),
            Linear("linear_2", image, width, bias=True), Norm("norm_out", width, "layer"), name="image_embedder",
        ),
        _glyphs(c.text_embed_2_dim, width), Embedding("cond_type_embed", 3, width), (SEMANTICS, GLYPHS),
        (image, c.text_embed_2_dim),
    )  # fmt: skip


def _glyphs(inputs: int, width: int) -> Sequence:
    """HunyuanVideo15ByT5TextProjection, HunyuanImageByT5TextProjection."""
    return sequence(
        Norm("norm", inputs, "layer"), Linear("linear_1", inputs, 2048, bias=True), Activation("", "gelu"),
        Linear("linear_2", 2048, 2048, bias=True), Activation("", "gelu"),
        Linear("linear_3", 2048, width, bias=True), name="context_embedder_2",
    )  # fmt: skip


SQUARE = (64, 64)  # latents of 2048 x 2048 pixels, as HunyuanImage's pipeline makes them
WORDS = 128  # tokenizer_2_max_length of its pipeline: glyphs of what is to be written


@architecture("HunyuanImageTransformer2DModel")
def hunyuan_image(c: Dimensions) -> Model:
    """HunyuanVideo's layers over an image that its autoencoder has made 32 times smaller; texts of two encoders."""
    width, patch, glyphs = c.num_attention_heads * c.attention_head_dim, tuple(c.patch_size), c.get("text_embed_2_dim")
    time = time_embedder(width)
    later = Unused("", (replace(time, name="timestep_embedder_r"),)) if c.use_meanflow else None
    strength = embedded("guidance_embedder", 256, width) if c.guidance_embeds else None
    mixed = MixedTexts("", None, _glyphs(glyphs, width), None, (0, WORDS), (0, glyphs)) if glyphs else None
    joint = [replace(_joint(c, width), formula="hunyuan-video")] * c.num_layers
    single = [replace(_single(c, width), formula="hunyuan-video")] * c.num_single_layers
    return denoiser(
        c, GridAngles("", tuple(c.rope_axes_dim), patch), sequence(time, later, strength, name="time_guidance_embed"),
        sequence(Conv("proj", c.in_channels, width, patch, patch), Flatten(""), name="x_embedder"),
        _refiner(c, width), mixed, stack("transformer_blocks", [*joint]), stack("single_transformer_blocks", [*single]),
        modulation("norm_out", width, 2), bare_norm(width), Modulate("", once=True),
        Linear("proj_out", width, math.prod(patch) * (c.out_channels or c.in_channels), bias=True),
        Unflatten("", patch[-1]), text=LONG_TOKENS, image=latent(c, SQUARE), scale=(32, 1),
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
