"""Diffusion transformers for video: Wan, LTX-Video, CogVideoX. Tokens are patches of frames."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import attention, denoiser, embedded, feed_forward, latent
from memcalc.architectures.dit import bare_norm, heads, projected_caption, shared_modulation
from memcalc.architectures.vace import controlled
from memcalc.blocks.base import Block, Sequence, repeat, sequence
from memcalc.blocks.basic import Conv, Linear, Norm, Raw
from memcalc.blocks.diffusion import Condition, Modulate, ModulatedBlock, Modulation
from memcalc.blocks.image import Flatten, Positions, Unflatten
from memcalc.blocks.video import FramePatches, Frames, GridTables, RowBlock, VideoTables, WideModulate

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.blocks.basic import NormKind
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


WAN_TOKENS = 512  # of UMT5, to which its pipeline cuts and pads every prompt
WIDE = 48  # channels of the autoencoder of Wan 2.2's 5B, which makes one of 16 x 16 pixels


@architecture("WanTransformer3DModel", "ChronoEditTransformer3DModel", "WanVACETransformer3DModel")
def wan(c: Dimensions) -> Model:
    """One modulation for all layers, each with a table of its own; cross attention to text (and an image)."""
    width, patch, block = c.num_attention_heads * c.attention_head_dim, tuple(c.patch_size), _wan_block(c)
    control = controlled(c, block, width, patch) if "vace_layers" in c else (None, None)
    tables = GridTables("", c.attention_head_dim, patch, c.rope_max_seq_len)
    pixels, size = (16, (21, 44, 80)) if c.in_channels == WIDE else (8, (21, 60, 104))
    out = (c.get("out_channels") or c.in_channels) * math.prod(patch)
    return denoiser(
        c, tables, Conv("patch_embedding", c.in_channels, width, patch, patch), Flatten("", copied=True),
        control[0], _wan_conditions(c, width), control[1], repeat("blocks", c.num_layers, block),
        Modulation("", None, 2, table=Raw("scale_shift_table", (1, 2, width))), WideModulate(""),
        Linear("proj_out", width, out, bias=True), Unflatten("", patch[-1]),
        text=WAN_TOKENS, image=latent(c, size), scale=(pixels, 4),
    )  # fmt: skip


def _wan_block(c: Dimensions) -> ModulatedBlock:
    width, extra = c.num_attention_heads * c.attention_head_dim, c.get("added_kv_proj_dim") or 0
    feed = feed_forward("ffn", width, act="gelu-approximate", inner=c.ffn_dim)
    norms = (bare_norm(width), *((Norm("norm2", width, "layer", "fp32-layer"),) if c.cross_attn_norm else ()))
    return ModulatedBlock(
        "", None, Raw("scale_shift_table", (1, 6, width)), norms, _wan_attention(c, "attn1", width),
        _wan_attention(c, "attn2", width, width, extra), feed, "wan",
    )  # fmt: skip


def _wan_conditions(c: Dimensions, width: int) -> Sequence:
    """Time to six vectors, the text's states and, of an image-to-video model, those of an image, projected."""
    image, places = c.get("image_dim"), c.get("pos_embed_seq_len")
    parts: list[Block] = [
        embedded("time_embedder", c.freq_dim, width),
        Modulation("", Linear("time_proj", width, 6 * width, bias=True), 6, shared=True),
        projected_caption("text_embedder", c.text_dim, width),
    ]  # fmt: skip
    if image:
        table = (Positions("pos_embed", (1, places, image)),) if places else ()
        feed = replace(
            feed_forward("ff", image, act="gelu", inner=image), down=Linear("net.2", image, width, bias=True)
        )
        ends = Norm("norm1", image, "layer", "fp32-layer"), feed, Norm("norm2", width, "layer", "fp32-layer")
        parts.append(Condition("image_embedder", (*table, *ends), image=257))
    return sequence(*parts, name="condition_embedder")


def _wan_attention(c: Dimensions, name: str, width: int, context: int = 0, extra: int = 0) -> Attention:
    """Queries and keys normed across all heads; `extra` keys and values of image states beside the text's."""
    added = (Linear("add_k_proj", extra, width, bias=True), Linear("add_v_proj", extra, width, bias=True),
             Norm("norm_added_k", width, "rms", "torch")) if extra else ()  # fmt: skip
    return attention(
        name, width, *heads(c), context, bias=True, before=added, rotary_dim=0 if context else c.attention_head_dim,
        q_norm=Norm("norm_q", width, "rms", "torch"), k_norm=Norm("norm_k", width, "rms", "torch"), formula="wan",
    )  # fmt: skip


@architecture("LTXVideoTransformer3DModel")
def ltx(c: Dimensions) -> Model:
    """PixArt's layers with RMSNorms, queries and keys normed across heads, rotary positions (HaCohen et al. 2024)."""
    width = c.num_attention_heads * c.attention_head_dim
    kind: NormKind = "rms" if c.norm_elementwise_affine else "rms-no-weight"
    norms = Norm("norm1", width, kind, "t5"), Norm("norm2", width, kind, "t5")
    mixer, cross = _ltx_attention(c, "attn1", width), _ltx_attention(c, "attn2", width, c.cross_attention_dim)
    feed = feed_forward("ff", width, act=c.activation_fn)
    block = ModulatedBlock("", None, Raw("scale_shift_table", (6, width)), norms, mixer, cross, feed)
    return denoiser(
        c, VideoTables("", width), Linear("proj_in", c.in_channels, width, bias=True),
        replace(shared_modulation(width), name="time_embed"),
        projected_caption("caption_projection", c.caption_channels, width),
        repeat("transformer_blocks", c.num_layers, block),
        Modulation("", None, 2, table=Raw("scale_shift_table", (2, width))), bare_norm(width), Modulate("", apart=True),
        Linear("proj_out", width, c.get("out_channels") or c.in_channels, bias=True),
        text=128, image=_ltx_row(c), scale=(32, 8),
    )  # fmt: skip


def _ltx_row(c: Dimensions) -> tuple[int, ...]:
    """(tokens, channels) of the latents in one row: of 161 frames of 512 x 704 pixels, as its pipeline has it, unless asked."""
    return math.prod(c.get("latents") or (21, 16, 22)), c.in_channels


def _ltx_attention(c: Dimensions, name: str, width: int, context: int = 0) -> Attention:
    return attention(
        name, width, *heads(c), context, bias=c.attention_bias, out_bias=c.attention_out_bias,
        rotary_dim=0 if context else c.attention_head_dim,
        q_norm=Norm("norm_q", width, "rms", "torch"), k_norm=Norm("norm_k", width, "rms", "torch"), formula="ltx",
    )  # fmt: skip


@architecture("CogVideoXTransformer3DModel")
def cogvideox(c: Dimensions) -> Model:
    """Text and video tokens in one row, each stream modulated by vectors of its own (Yang et al. 2024)."""
    width, wide = c.num_attention_heads * c.attention_head_dim, c.time_embed_dim
    extra, frames = c.get("ofs_embed_dim"), c.get("patch_size_t")
    out = c.patch_size**2 * (frames or 1) * (c.get("out_channels") or c.in_channels)
    kind: NormKind = "layer" if c.norm_elementwise_affine else "none"
    end = Modulation("norm_out", Linear("linear", wide, 2 * width, bias=True), 2), Norm("norm_out.norm", width, kind)
    size = (c.sample_frames - 1) // c.temporal_compression_ratio + 1, c.sample_height, c.sample_width
    asked = c.get("latents") or size
    return denoiser(
        c, embedded("time_embedding", width, wide, act=c.timestep_activation_fn),
        embedded("ofs_embedding", extra, extra, act=c.timestep_activation_fn) if extra else None,
        _cog_patches(c, width),
        repeat("transformer_blocks", c.num_layers, _cog_block(c, width, kind)), Norm("norm_final", width, kind),
        *end, Modulate(""), Linear("proj_out", width, out, bias=True), Frames("", c.patch_size),
        text=c.max_text_seq_length, image=(c.in_channels, *asked), scale=(8, c.temporal_compression_ratio),
    )  # fmt: skip


def _cog_patches(c: Dimensions, width: int) -> Sequence:
    """Patches of a frame by a convolution, or (1.5) of frames by a linear layer; a stored table where it is learned."""
    size, frames = c.patch_size, c.get("patch_size_t")
    cut = (Conv("proj", c.in_channels, width, (size, size), size, bias=c.patch_bias) if frames is None
           else Linear("proj", c.in_channels * size**2 * frames, width, bias=True))  # fmt: skip
    count = (
        c.sample_height // size * (c.sample_width // size) * ((c.sample_frames - 1) // c.temporal_compression_ratio + 1)
    )
    table = Positions("pos_embedding", (1, c.max_text_seq_length + count, width), buffer=True)
    text = Condition("", (Linear("text_proj", c.text_embed_dim, width, bias=True),), tokens=True)
    learned = bool(c.use_learned_positional_embeddings)
    places = 0 if c.use_rotary_positional_embeddings and not learned else c.max_text_seq_length + count
    blocks = (cut, text, *((table,) if learned else ()))
    return FramePatches("patch_embed", blocks, size, frames or 1, places, c.attention_head_dim, c.dropout)


def _cog_block(c: Dimensions, width: int, kind: NormKind) -> RowBlock:
    dim = c.attention_head_dim
    mixer = attention("attn1", width, *heads(c), bias=c.attention_bias,
                      q_norm=Norm("norm_q", dim, "layer"), k_norm=Norm("norm_k", dim, "layer"), formula="cogvideox")  # fmt: skip
    feed = feed_forward("ff", width, act=c.activation_fn, dropout=c.dropout)
    vectors = [Modulation(f"norm{i}", Linear("linear", c.time_embed_dim, 6 * width, bias=True), 6) for i in (1, 2)]
    norms = [Norm(f"norm{i}.norm", width, kind) for i in (1, 2)]
    return RowBlock("", tuple(vectors), tuple(norms), mixer, feed, c.dropout)
