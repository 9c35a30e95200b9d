"""CogView3-Plus and 4: text and image in one row for the attention, each modulated by vectors of its own (Z.ai 2024, 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import attention, denoiser, embedded, feed_forward
from memcalc.architectures.dit import bare_norm, heads
from memcalc.blocks.base import Sequence, repeat, sequence
from memcalc.blocks.basic import Linear
from memcalc.blocks.diffusion import ActiveVector, Condition, Cut, Modulate, Modulation
from memcalc.blocks.image import Unflatten
from memcalc.blocks.joint import HostAngles, JointBlock, PlacedRow

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

# of the 1024 that its pipeline allows: a prompt is padded to a multiple of 16, and ones of this length are usual
COGVIEW_TOKENS = 224


@architecture("CogView3PlusTransformer2DModel")
def cogview3(c: Dimensions) -> Model:
    """The same without tables that rotate: fixed positions are added once, and the feed-forward reads one row too."""
    width, wide, patch = c.num_attention_heads * c.attention_head_dim, c.time_embed_dim, c.patch_size
    into = sequence(
        Cut("", patch), Linear("proj", c.in_channels * patch**2, width, bias=True),
        Condition("", (Linear("text_proj", c.text_embed_dim, width, bias=True),), tokens=True),
        PlacedRow("", c.pos_embed_max_size), name="patch_embed",
    )  # fmt: skip
    end = (
        Modulation("norm_out", Linear("linear", wide, 2 * width, bias=True), 2),
        bare_norm(width),
        Modulate("", once=True),
    )
    return denoiser(
        c, into, _vector(c, width), repeat("transformer_blocks", c.num_layers, _block(c, width, "cogview3")), *end,
        Linear("proj_out", width, patch**2 * c.out_channels, bias=True), Unflatten("", patch), text=COGVIEW_TOKENS,
    )  # fmt: skip


@architecture("CogView4Transformer2DModel")
def cogview4(c: Dimensions) -> Model:
    """Joint layers whose two streams share queries, keys, values and the feed-forward."""
    width, wide, patch = c.num_attention_heads * c.attention_head_dim, c.time_embed_dim, c.patch_size
    into = sequence(
        Cut("", patch), Linear("proj", c.in_channels * patch**2, width, bias=True),
        Condition("", (Linear("text_proj", c.text_embed_dim, width, bias=True),), tokens=True), name="patch_embed",
    )  # fmt: skip
    end = (
        Modulation("norm_out", Linear("linear", wide, 2 * width, bias=True), 2, silu=False),
        bare_norm(width),
        Modulate(""),
    )
    return denoiser(
        c, HostAngles("", c.attention_head_dim), into, _vector(c, width), ActiveVector(""),
        repeat("transformer_blocks", c.num_layers, _block(c, width, "cogview4")), *end,
        Linear("proj_out", width, patch**2 * c.out_channels, bias=True), Unflatten("", patch), text=COGVIEW_TOKENS,
    )  # fmt: skip


def _vector(c: Dimensions, width: int) -> Sequence:
    """The time step, and the sizes of the image and of the part that is shown."""
    wide = c.time_embed_dim
    sizes = embedded("condition_embedder", 6 * c.condition_dim, wide, given=True)
    return sequence(embedded("timestep_embedder", width, wide), sizes, name="time_condition_embed")


def _block(c: Dimensions, width: int, formula: str) -> JointBlock:
    active = formula == "cogview4"
    vectors = Modulation("norm1", Linear("linear", c.time_embed_dim, 12 * width, bias=True), 12, silu=not active)
    q, k = (bare_norm(c.attention_head_dim) for _ in "qk")
    kernel = "cogview4" if active else "cogvideox"
    mixer = attention("attn1", width, *heads(c), bias=True, q_norm=q, k_norm=k, formula=kernel)
    feed = feed_forward("ff", width, act="gelu-approximate")
    return JointBlock("", width, vectors, None, mixer, None, feed, None, formula)
