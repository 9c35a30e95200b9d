"""Lean diffusion transformers for images: Sana (Xie et al. 2024) and Lumina-Image 2 (Qin et al. 2025)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import attention, denoiser, embedded
from memcalc.architectures.dit import (
    SINES,
    bare_norm,
    heads,
    patch_embed,
    projected_caption,
    shared_modulation,
)
from memcalc.architectures.mmdit import qk_norms
from memcalc.blocks.base import Sequence, repeat, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Linear, Norm, Raw
from memcalc.blocks.diffusion import Condition, Cut, GatedMap, Modulate, ModulatedBlock, Modulation
from memcalc.blocks.image import Flatten, Unflatten
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.streams import SampleRows, SampleTables

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("SanaTransformer2DModel")
def sana(c: Dimensions) -> Model:
    """Linear self-attention, cross attention to the caption, a gated convolution in place of the MLP."""
    width, out = c.num_attention_heads * c.attention_head_dim, c.get("out_channels") or c.in_channels
    context = c.get("cross_attention_dim")
    self_norms, cross_norms = (_qk(c, *sizes) for sizes in (heads(c), _cross(c)))
    mixer = attention(
        "attn1", width, *heads(c), bias=c.attention_bias, formula="sana-linear", out_dropout=c.dropout, **self_norms
    )
    cross = (
        attention(
            "attn2", width, *_cross(c), context, bias=True, formula="sana-cross", out_dropout=c.dropout, **cross_norms
        )
        if context
        else None
    )
    norms = bare_norm(width), Norm("norm2", width, "layer" if c.norm_elementwise_affine and context else "none")
    table = Raw("scale_shift_table", (6, width))
    block = ModulatedBlock("", None, table, norms, mixer, cross, _gated_conv(c, width), "sana")
    return denoiser(
        c, _patches(c, width), _time(c, width),
        projected_caption("caption_projection", c.caption_channels, width),
        Condition("", (Norm("caption_norm", width, "rms", "t5"),), tokens=True),
        repeat("transformer_blocks", c.num_layers, block),
        Modulation("", None, 2, table=Raw("scale_shift_table", (2, width))), bare_norm(width), Modulate(""),
        Linear("proj_out", width, c.patch_size**2 * out, bias=True), Unflatten("", c.patch_size),
        text=300, scale=(32, 1),
    )  # fmt: skip


def _patches(c: Dimensions, width: int) -> Sequence:
    """Without positions, unless the config says how they are stretched."""
    cut = replace(patch_embed(c, width), name="patch_embed")
    return cut if c.get("interpolation_scale") is not None else replace(cut, blocks=cut.blocks[:-1])


def _cross(c: Dimensions) -> tuple[int, int]:
    return c.num_cross_attention_heads, c.cross_attention_head_dim


def _qk(c: Dimensions, count: int, dim: int) -> dict[str, Any]:
    """Norms of queries and keys, across all heads where the config says so."""
    kind = c.get("qk_norm")
    if not kind:
        return {}
    if kind == "rms_norm_across_heads":
        return {"q_norm": Norm("norm_q", count * dim, "rms", "t5"), "k_norm": Norm("norm_k", count * dim, "rms", "t5")}
    q, k = qk_norms(("norm_q", "norm_k"), dim, kind)
    return {key: norm for key, norm in (("q_norm", q), ("k_norm", k)) if norm}


def _time(c: Dimensions, width: int) -> Modulation:
    """Time to six vectors; with the guidance strength where the model is distilled for it."""
    if not c.guidance_embeds:
        return replace(shared_modulation(width), name="time_embed")
    both = sequence(*(embedded(f"{name}_embedder", SINES, width) for name in ("timestep", "guidance")))
    return Modulation("time_embed", Linear("linear", width, 6 * width, bias=True), 6, both)


def _gated_conv(c: Dimensions, width: int) -> Sequence:
    """1x1 to twice the inner width, depthwise 3x3, gate, 1x1 back (GLUMBConv)."""
    inner = int(c.mlp_ratio * width)
    return sequence(
        Unflatten("", copied=False, inner=True), Conv("conv_inverted", width, 2 * inner, (1, 1)), Activation("", "silu"),
        Conv("conv_depth", 2 * inner, 2 * inner, (3, 3), 1, 2 * inner, padding=1), GatedMap(""),
        Conv("conv_point", inner, width, (1, 1), bias=False), Flatten("", inner=True), name="ff",
    )  # fmt: skip


LUMINA_TOKENS = 256  # max_sequence_length of its pipeline


@architecture("Lumina2Transformer2DModel")
def lumina2(c: Dimensions) -> Model:
    """Layers of a Llama with sandwich norms and tanh gates; two refine the text and two the image first."""
    wide, size = min(c.hidden_size, 1024), c.patch_size
    out = size**2 * (c.get("out_channels") or c.in_channels)
    project = Norm("0", c.cap_feat_dim, "rms", "t5"), Linear("1", c.cap_feat_dim, c.hidden_size, bias=True)
    caption = Condition("caption_embedder", project, tokens=True)
    time = sequence(embedded("timestep_embedder", SINES, wide), caption, name="time_caption_embed")
    layer, plain = _lumina_layer(c, wide, modulated=True), _lumina_layer(c, wide, modulated=False)
    refiners = [stack(f"{name}_refiner", [kind] * c.num_refiner_layers, "never")
                for name, kind in (("context", plain), ("noise", layer))]  # fmt: skip
    last = Modulation("norm_out", Linear("linear_1", wide, c.hidden_size, bias=True), 1)
    return denoiser(
        c, time, Cut("", size), SampleTables("", tuple(c.axes_dim_rope)),
        Linear("x_embedder", size**2 * c.in_channels, c.hidden_size, bias=True),
        Condition("", (refiners[0],), tokens=True), refiners[1], SampleRows(""),
        repeat("layers", c.num_layers, layer), last, bare_norm(c.hidden_size), Modulate(""),
        Linear("norm_out.linear_2", c.hidden_size, out, bias=True), SampleRows("", back=True), Unflatten("", size),
        text=LUMINA_TOKENS,
    )  # fmt: skip


def _lumina_layer(c: Dimensions, wide: int, *, modulated: bool) -> ModulatedBlock:
    """x + tanh(gate) · norm(attention(norm(x) (1 + scale))), then the same with a gated MLP."""
    hidden, dim = c.hidden_size, c.hidden_size // c.num_attention_heads
    q, k = qk_norms(("norm_q", "norm_k"), dim, "rms_norm")
    mixer = attention("attn", hidden, c.num_attention_heads, dim, out_bias=False, kv_heads=c.num_kv_heads,
                      q_norm=q, k_norm=k, rotary_dim=dim, formula="lumina")  # fmt: skip
    vectors = Modulation("norm1", Linear("linear", wide, 4 * hidden, bias=True), 4) if modulated else None
    names = "norm1.norm" if modulated else "norm1", "norm2", "ffn_norm1", "ffn_norm2"
    norms = tuple(Norm(name, hidden, "rms", "t5") for name in names)
    return ModulatedBlock("", vectors, None, norms, mixer, None, _lumina_feed(c), "lumina")


def _lumina_feed(c: Dimensions) -> Mlp:
    """linear_2(silu(linear_1(x)) * linear_3(x)), 4 times the width up to a multiple."""
    hidden, inner = c.hidden_size, int((c.get("ffn_dim_multiplier") or 1) * 4 * c.hidden_size)
    inner = -(-inner // c.multiple_of) * c.multiple_of
    gate, up = Linear("linear_1", hidden, inner), Linear("linear_3", hidden, inner)
    return Mlp("feed_forward", up, Linear("linear_2", inner, hidden), gate, width=inner, formula="lumina")
