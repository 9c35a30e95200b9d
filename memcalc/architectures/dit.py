"""Diffusion transformers of one stream: DiT (Peebles & Xie 2023) and PixArt (Chen et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import attention, denoiser, embedded, feed_forward
from memcalc.blocks.base import Sequence, repeat, sequence
from memcalc.blocks.basic import Activation, Conv, Embedding, Linear, Norm, Raw
from memcalc.blocks.diffusion import Condition, Modulate, ModulatedBlock, Modulation, TablePositions
from memcalc.blocks.image import Flatten, Unflatten
from memcalc.errors import fault
from memcalc.tensors import numbers

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

T5_TOKENS = 120  # what the pipeline of PixArt-alpha cuts and pads every prompt to
SINES = 256  # channels of the sinusoidal time features (diffusers, Timesteps(num_channels=256))


@architecture("DiTTransformer2DModel")
def dit(c: Dimensions) -> Model:
    """Blocks modulated by time and class, which diffusers embeds anew in every block."""
    width = c.num_attention_heads * c.attention_head_dim
    vectors = sequence(
        time_embedder(width),
        Condition("class_embedder", (Embedding("embedding_table", c.num_embeds_ada_norm + 1, width),), given=True), name="emb",
    )  # fmt: skip
    modulation = Modulation("norm1", Linear("linear", width, 6 * width, bias=True), 6, vectors)
    mixer = attention("attn1", width, *heads(c), bias=c.attention_bias, out_dropout=c.dropout)
    norms = bare_norm(width), _norm(c, "norm3", width)
    block = ModulatedBlock("", modulation, None, norms, mixer, None, _feed(c, width))
    out = c.patch_size**2 * (c.get("out_channels") or c.in_channels)
    first = f"transformer_blocks.{numbers(list(range(c.num_layers)))}.norm1"
    return denoiser(
        c, patch_embed(c, width), repeat("transformer_blocks", c.num_layers, block),
        Modulation("", Linear("proj_out_1", width, 2 * width, bias=True), 2, vectors, borrowed=first),
        bare_norm(width), Modulate(""),
        Linear("proj_out_2", width, out, bias=True), Unflatten("", c.patch_size),
    )  # fmt: skip


@architecture("PixArtTransformer2DModel")
def pixart(c: Dimensions) -> Model:
    """Blocks that share one modulation, each with a table of its own, and cross attention to the caption."""
    if c.get("attention_type", "default") != "default":
        raise fault("model.attention_type", "gated (GLIGEN) attention is not known")
    width, out = c.num_attention_heads * c.attention_head_dim, c.get("out_channels") or c.in_channels
    extra = c.get("use_additional_conditions")
    sized = c.sample_size == 128 if extra is None else bool(extra)
    mixer = attention("attn1", width, *heads(c), bias=c.attention_bias, out_dropout=c.dropout)
    cross = attention(
        "attn2", width, *heads(c), c.get("cross_attention_dim") or 0, bias=c.attention_bias, out_dropout=c.dropout
    )
    caption, norms = c.get("caption_channels"), (_norm(c, "norm1", width), _norm(c, "norm2", width))
    return denoiser(
        c, patch_embed(c, width), shared_modulation(width, sized=sized),
        projected_caption("caption_projection", caption, width) if caption else None,
        repeat("transformer_blocks", c.num_layers, ModulatedBlock(
            "", None, Raw("scale_shift_table", (6, width)), norms, mixer, cross if c.get("cross_attention_dim") else None,
            _feed(c, width), "pixart")),
        Modulation("", None, 2, table=Raw("scale_shift_table", (2, width))), bare_norm(width), Modulate("", apart=True),
        Linear("proj_out", width, c.patch_size**2 * out, bias=True), Unflatten("", c.patch_size), text=T5_TOKENS,
    )  # fmt: skip


def heads(c: Dimensions) -> tuple[int, int]:
    """Heads and their channels."""
    return c.num_attention_heads, c.attention_head_dim


def bare_norm(width: int, name: str = "") -> Norm:
    """LayerNorm without weights: the modulation has them."""
    return Norm(name, width, "none")


def patch_embed(c: Dimensions, width: int) -> Sequence:
    """PatchEmbed: patches by a convolution, fixed sinusoidal positions (a buffer that is not stored)."""
    patch = (c.patch_size, c.patch_size)
    return sequence(Conv("proj", c.in_channels, width, patch, patch), Flatten(""), TablePositions("", stored=_stored(c)),
                    name="pos_embed")  # fmt: skip


def _stored(c: Dimensions) -> int:
    """Positions of an image of the config's own size."""
    size = c.get("sample_size") or 0
    return (size // c.patch_size) ** 2 if isinstance(size, int) else 0


def time_embedder(width: int, name: str = "timestep_embedder") -> Condition:
    """Sinusoids of the time step through two linear layers."""
    return embedded(name, SINES, width)


def shared_modulation(width: int, *, sized: bool = False) -> Modulation:
    """AdaLayerNormSingle: time (and image size and aspect ratio, `sized`) to six vectors, once for all blocks."""
    sizes = (
        embedded("resolution_embedder", SINES, width // 3, rows=2),
        embedded("aspect_ratio_embedder", SINES, width // 3),
    )
    vectors = sequence(time_embedder(width), *(sizes if sized else ()), name="emb")
    return Modulation("adaln_single", Linear("linear", width, 6 * width, bias=True), 6, vectors, shared=True)


def projected_caption(name: str, inputs: int, width: int, act: str = "gelu_pytorch_tanh") -> Condition:
    """PixArtAlphaTextProjection: the caption's states through two linear layers."""
    first, second = Linear("linear_1", inputs, width, bias=True), Linear("linear_2", width, width, bias=True)
    return Condition(name, (first, Activation("", act), second), tokens=True)


def _norm(c: Dimensions, name: str, width: int) -> Norm:
    return Norm(name, width, "layer" if c.norm_elementwise_affine else "none")


def _feed(c: Dimensions, width: int) -> Block:
    return feed_forward("ff", width, act=c.activation_fn, dropout=c.dropout)
