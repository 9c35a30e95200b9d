"""Diffusion transformers of two streams, image and text: Stable Diffusion 3 (Esser et al. 2024) and FLUX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import interleaved
from memcalc.architectures.diffusers import attention, denoiser, embedded, feed_forward
from memcalc.architectures.dit import bare_norm, heads, time_embedder
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, repeat, sequence
from memcalc.blocks.basic import Conv, Linear, Norm, Raw
from memcalc.blocks.diffusion import Condition, Modulate, Modulation, TablePositions
from memcalc.blocks.image import Flatten, Unflatten
from memcalc.blocks.joint import AxialRotary, JointAttention, JointBlock, SingleBlock

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("SD3Transformer2DModel")
def sd3(c: Dimensions) -> Model:
    """Joint layers; the last uses the text tokens for the last time, the first ones of SD 3.5 attend twice."""
    width, dual = c.num_attention_heads * c.attention_head_dim, set(c.dual_attention_layers)
    kinds = [(i in dual, i == c.num_layers - 1) for i in range(c.num_layers)]
    blocks = interleaved("transformer_blocks", kinds, lambda kind: sd3_block(c, width, dual=kind[0], last=kind[1]))
    return denoiser(
        c, sd3_patches(c, width), time_and_text(width, c.pooled_projection_dim),
        context_embedder(c.joint_attention_dim, c.caption_projection_dim), blocks,
        *unpatched(width, c.patch_size**2 * (c.get("out_channels") or c.in_channels), c.patch_size), text=SD3_TOKENS,
    )  # fmt: skip


SD3_TOKENS = 77 + 256  # CLIP's and T5's, side by side, as the pipeline makes them


def sd3_patches(c: Dimensions, width: int) -> Sequence:
    """Patches, plus the middle of a table of fixed positions for the largest image (a stored buffer)."""
    patch, largest = (c.patch_size, c.patch_size), c.get("pos_embed_max_size")
    side = largest or c.sample_size // c.patch_size
    table = Raw("pos_embed", (1, side**2, width), buffer=True, dtype="fp32")
    places = TablePositions("", cropped=bool(largest))
    return sequence(Conv("proj", c.in_channels, width, patch, patch), Flatten(""), table if largest else None, places,
                    name="pos_embed")  # fmt: skip


def time_and_text(width: int, pooled: int, *, guidance: bool = False) -> Sequence:
    """The conditioning vector: time, and guidance where the model is distilled for it, plus pooled text."""
    strength = embedded("guidance_embedder", 256, width) if guidance else None
    return sequence(
        time_embedder(width), strength, embedded("text_embedder", pooled, width, given=True), name="time_text_embed"
    )


def context_embedder(inputs: int, width: int) -> Condition:
    """The text tokens, brought to the stream's width."""
    return Condition("", (Linear("context_embedder", inputs, width, bias=True),), tokens=True)


def modulation(name: str, width: int, chunks: int) -> Modulation:
    """AdaLayerNormZero and kin: `chunks` vectors of the width."""
    return Modulation(name, Linear("linear", width, chunks * width, bias=True), chunks)


def unpatched(width: int, out: int, patch: int) -> tuple[Block, ...]:
    """norm_out, modulated by scale and shift, and the projection back to pixels of a patch."""
    end = (Unflatten("", patch),) if patch else ()
    last = Linear("proj_out", width, out, bias=True)
    return (modulation("norm_out", width, 2), bare_norm(width), Modulate("", once=True), last, *end)  # fmt: skip


def joint_attention(
    c: Dimensions, width: int, qk_norm: str = "", *, last: bool = False, rotary: int = 0
) -> JointAttention:
    """to_q, to_k, to_v of the image tokens, add_q_proj, add_k_proj, add_v_proj of the text tokens."""
    count, dim = heads(c)
    q, k, added_q, added_k = qk_norms(("norm_q", "norm_k", "norm_added_q", "norm_added_k"), dim, qk_norm)
    return JointAttention(
        "attn", count, count, dim,
        q=Linear("to_q", width, width, bias=True),
        k=Linear("to_k", width, width, bias=True),
        v=Linear("to_v", width, width, bias=True),
        out=Linear("to_out.0", width, width, bias=True),
        q_norm=q, k_norm=k, causal=False, rotary_dim=rotary,
        context=tuple(Linear(f"add_{x}_proj", width, width, bias=True) for x in "qkv"),
        context_norms=tuple(norm for norm in (added_q, added_k) if norm),
        context_out=None if last else Linear("to_add_out", width, width, bias=True), formula="flux" if rotary else "",
    )  # fmt: skip


def qk_norms(names: tuple[str, ...], dim: int, kind: str) -> list[Norm | None]:
    """Norms of queries and keys per head: none, 'rms_norm', 'layer_norm', or 'fp32_layer_norm' without weights."""
    kinds = {"rms_norm": ("rms", "t5"), "torch_rms_norm": ("rms", "torch"), "layer_norm": ("layer", ""),
             "fp32_layer_norm": ("none", "fp32-layer")}  # fmt: skip
    return [Norm(name, dim, *kinds[kind]) if kind else None for name in names]  # type: ignore[arg-type]


def sd3_block(c: Dimensions, width: int, *, dual: bool, last: bool) -> JointBlock:
    """JointTransformerBlock; the `last` one's text ends in its attention."""
    norm = c.get("qk_norm") or ""
    q, k = qk_norms(("norm_q", "norm_k"), c.attention_head_dim, norm)
    again: Attention | None = attention("attn2", width, *heads(c), bias=True, q_norm=q, k_norm=k) if dual else None
    return JointBlock(
        "", width,
        modulation("norm1", width, 9 if dual else 6), modulation("norm1_context", width, 2 if last else 6),
        joint_attention(c, width, norm, last=last), again, feed_forward("ff", width, act="gelu-approximate"),
        None if last else feed_forward("ff_context", width, act="gelu-approximate"),
    )  # fmt: skip


def packed(c: Dimensions) -> tuple[int, ...]:
    """(tokens, channels) of latents that the pipeline packs two by two: of an image of 1024 x 1024 pixels, unless asked."""
    _, rows, columns = c.get("latents") or (1, 128, 128)
    return (rows // 2 * (columns // 2), c.in_channels)


@architecture("FluxTransformer2DModel")
def flux(c: Dimensions) -> Model:
    """Joint layers, then layers over text and image tokens in one row, attention and MLP at once."""
    width, rotary = c.num_attention_heads * c.attention_head_dim, sum(c.axes_dims_rope)
    return denoiser(
        c, time_and_text(width, c.pooled_projection_dim, guidance=bool(c.guidance_embeds)),
        context_embedder(c.joint_attention_dim, width), Linear("x_embedder", c.in_channels, width, bias=True),
        AxialRotary("", tuple(c.axes_dims_rope)), repeat("transformer_blocks", c.num_layers, flux_joint(c, width, rotary)),
        repeat("single_transformer_blocks", c.num_single_layers, flux_single(c, width, rotary)),
        *unpatched(width, c.patch_size**2 * (c.get("out_channels") or c.in_channels), 0), text=512,
        image=packed(c), edits=True,
    )  # fmt: skip


def flux_joint(c: Dimensions, width: int, rotary: int) -> JointBlock:
    """FluxTransformerBlock: both streams attend to each other, rotated."""
    return JointBlock(
        "", width, modulation("norm1", width, 6), modulation("norm1_context", width, 6),
        joint_attention(c, width, "torch_rms_norm", rotary=rotary), None,
        feed_forward("ff", width, act="gelu-approximate"), feed_forward("ff_context", width, act="gelu-approximate"), "flux",
    )  # fmt: skip


def flux_single(
    c: Dimensions, width: int, rotary: int, *, inner: int = 0, qk_norm: str = "torch_rms_norm", formula: str = "flux"
) -> SingleBlock:
    """Attention and MLP over all tokens at once, the latter `inner` wide (0: 4 times the width)."""
    q, k = qk_norms(("norm_q", "norm_k"), c.attention_head_dim, qk_norm)
    mixer = Attention(
        "attn", *(c.num_attention_heads,) * 2, c.attention_head_dim,
        q=Linear("to_q", width, width, bias=True),
        k=Linear("to_k", width, width, bias=True),
        v=Linear("to_v", width, width, bias=True),
        q_norm=q, k_norm=k, causal=False, rotary_dim=rotary, formula=formula,
    )  # fmt: skip
    inner = inner or 4 * width
    return SingleBlock("", width, modulation("norm", width, 3), mixer, Linear("proj_mlp", width, inner, bias=True),
                       out=Linear("proj_out", width + inner, width, bias=True))  # fmt: skip
