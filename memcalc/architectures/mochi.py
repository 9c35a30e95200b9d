"""Mochi: joint layers of a wide video stream and a narrow text stream, scaled but not shifted (Genmo 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import interleaved
from memcalc.architectures.diffusers import denoiser, embedded, feed_forward, latent
from memcalc.architectures.mmdit import unpatched
from memcalc.blocks.basic import Conv, Linear, Norm, Raw
from memcalc.blocks.diffusion import Modulation
from memcalc.blocks.image import Unflatten
from memcalc.blocks.joint import JointAttention, JointBlock
from memcalc.blocks.mochi import CutFrames, PooledTime
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

MOCHI_TOKENS = 256  # max_sequence_length of its pipeline
POOLING = 8  # heads that pool the text


@architecture("MochiTransformer3DModel")
def mochi(c: Dimensions) -> Model:
    """The last layer reads the text for the last time."""
    if c.get("activation_fn", "swiglu") != "swiglu":
        raise fault("model.activation_fn", "Mochi's feed-forward is known with swiglu alone")
    width, wide, patch = c.num_attention_heads * c.attention_head_dim, c.text_embed_dim, c.patch_size
    time = PooledTime(
        "time_embed", embedded("timestep_embedder", c.time_embed_dim, width),
        (Linear("pooler.to_kv", wide, 2 * wide, bias=True), Linear("pooler.to_q", wide, wide, bias=True)),
        Linear("pooler.to_out", wide, width, bias=True), Linear("caption_proj", wide, c.pooled_projection_dim, bias=True), POOLING,
    )  # fmt: skip
    conv = Conv("patch_embed.proj", c.in_channels, width, (patch, patch), patch)
    rates = Raw("pos_frequencies", (3, c.num_attention_heads, c.attention_head_dim // 2))
    ends = [i == c.num_layers - 1 for i in range(c.num_layers)]
    return denoiser(
        c, time, CutFrames("", conv, rates), interleaved("transformer_blocks", ends, lambda last: _block(c, width, last=last)),
        *unpatched(width, patch**2 * (c.get("out_channels") or c.in_channels), 0), Unflatten("", patch),
        text=MOCHI_TOKENS, image=latent(c, (4, 60, 106)), scale=(8, 6),
    )  # fmt: skip


def _block(c: Dimensions, width: int, *, last: bool) -> JointBlock:
    side, count, dim = c.pooled_projection_dim, c.num_attention_heads, c.attention_head_dim
    names = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")
    q, k, added_q, added_k = (Norm(name, dim, "rms", "mochi") for name in names)
    mixer = JointAttention(
        "attn1", count, count, dim, q=Linear("to_q", width, width), k=Linear("to_k", width, width),
        v=Linear("to_v", width, width), out=Linear("to_out.0", width, width, bias=True), q_norm=q, k_norm=k, causal=False,
        context=tuple(Linear(f"add_{x}_proj", side, width) for x in "qkv"), context_norms=(added_q, added_k),
        context_out=None if last else Linear("to_add_out", width, side, bias=True), formula="mochi",
    )  # fmt: skip
    chunks, inner = (1, "linear_1") if last else (4, "linear")
    vectors = (
        Modulation("norm1", Linear("linear", width, 4 * width, bias=True), 4),
        Modulation("norm1_context", Linear(inner, width, chunks * side, bias=True), chunks),
    )
    feeds = [
        feed_forward(name, size, act="swiglu", inner=8 * size // 3, bias=False)
        for name, size in (("ff", width), ("ff_context", side))
    ]
    return JointBlock("", width, *vectors, mixer, None, feeds[0], None if last else feeds[1], "mochi")
