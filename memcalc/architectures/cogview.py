"""CogView4: text and image in one row for the attention, each modulated by vectors of its own (Z.ai 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import attention, denoiser, embedded, feed_forward
from memcalc.architectures.dit import bare_norm, heads
from memcalc.blocks.base import repeat, sequence
from memcalc.blocks.basic import Linear
from memcalc.blocks.diffusion import ActiveVector, Condition, Cut, Modulate, Modulation
from memcalc.blocks.image import Unflatten
from memcalc.blocks.joint import HostAngles, JointBlock

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

# of the 1024 that its pipeline allows: a prompt is padded to a multiple of 16, and ones of this length are usual
COGVIEW_TOKENS = 224


@architecture("CogView4Transformer2DModel")
def cogview4(c: Dimensions) -> Model:
    """Joint layers whose two streams share queries, keys, values and the feed-forward."""
    width, wide, patch = c.num_attention_heads * c.attention_head_dim, c.time_embed_dim, c.patch_size
    into = sequence(
        Cut("", patch), Linear("proj", c.in_channels * patch**2, width, bias=True),
        Condition("", (Linear("text_proj", c.text_embed_dim, width, bias=True),), tokens=True), name="patch_embed",
    )  # fmt: skip
    vector = sequence(
        embedded("timestep_embedder", width, wide), embedded("condition_embedder", 6 * c.condition_dim, wide, given=True),
        name="time_condition_embed",
    )  # fmt: skip
    end = (
        Modulation("norm_out", Linear("linear", wide, 2 * width, bias=True), 2, silu=False),
        bare_norm(width),
        Modulate(""),
    )
    return denoiser(
        c, HostAngles("", c.attention_head_dim), into, vector, ActiveVector(""),
        repeat("transformer_blocks", c.num_layers, _block(c, width)), *end,
        Linear("proj_out", width, patch**2 * c.out_channels, bias=True), Unflatten("", patch), text=COGVIEW_TOKENS,
    )  # fmt: skip


def _block(c: Dimensions, width: int) -> JointBlock:
    vectors = Modulation("norm1", Linear("linear", c.time_embed_dim, 12 * width, bias=True), 12, silu=False)
    q, k = (bare_norm(c.attention_head_dim) for _ in "qk")
    mixer = attention("attn1", width, *heads(c), bias=True, q_norm=q, k_norm=k, formula="cogview4")
    feed = feed_forward("ff", width, act="gelu-approximate")
    return JointBlock("", width, vectors, None, mixer, None, feed, None, "cogview4")
