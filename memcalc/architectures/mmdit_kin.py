"""More diffusion transformers of two streams: FLUX.2, Qwen-Image, AuraFlow."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import interleaved
from memcalc.architectures.diffusers import attention, denoiser, embedded, feed_forward
from memcalc.architectures.dit import SINES, bare_norm, heads, time_embedder
from memcalc.architectures.mmdit import joint_attention, packed, qk_norms, unpatched
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, Stray, repeat, sequence
from memcalc.blocks.basic import Embedding, Linear, Norm
from memcalc.blocks.diffusion import Condition, Cut, FirstHalf, Modulate, ModulatedBlock, Modulation
from memcalc.blocks.image import Unflatten
from memcalc.blocks.joint import (
    AxialRotary,
    ComplexRotary,
    JointAttention,
    JointBlock,
    OneRow,
    PickedPositions,
    Registers,
    SingleBlock,
)
from memcalc.blocks.mlp import Mlp

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


QWEN_TOKENS = 512  # max_sequence_length of its pipeline, which pads no further than the longest prompt


@architecture("QwenImageTransformer2DModel")
def qwen_image(c: Dimensions) -> Model:
    """SD3's joint layers for 60 layers, rotary positions, the text normed first (Wu et al. 2025)."""
    width, rotary = c.num_attention_heads * c.attention_head_dim, sum(c.axes_dims_rope)
    extra = Condition("", (Embedding("addition_t_embedding", 2, width),)) if c.use_additional_t_cond else None
    text = (
        Norm("txt_norm", c.joint_attention_dim, "rms", "t5"),
        Linear("txt_in", c.joint_attention_dim, width, bias=True),
    )
    ends, twice = [i == c.num_layers - 1 for i in range(c.num_layers)], bool(c.get("zero_cond_t"))
    blocks = interleaved("transformer_blocks", ends, lambda last: _qwen_block(c, width, rotary, last=last))
    return denoiser(
        c, Linear("img_in", c.in_channels, width, bias=True), Condition("", text, tokens=True),
        sequence(replace(time_embedder(width), rows=2 if twice else 1), extra, name="time_text_embed"),
        ComplexRotary("", rotary), blocks, FirstHalf("") if twice else None,
        *unpatched(width, c.patch_size**2 * (c.get("out_channels") or c.in_channels), 0),
        text=QWEN_TOKENS, image=packed(c), edits=True,
    )  # fmt: skip


def _qwen_block(c: Dimensions, width: int, rotary: int, *, last: bool) -> JointBlock:
    """The last one's text tokens are brought up to date for nothing. Of two times each image token has the one that is its own."""
    mixer = replace(joint_attention(c, width, "rms_norm", rotary=rotary), formula="qwen-image")
    feed, other = (feed_forward(f"{name}_mlp", width, act="gelu-approximate") for name in ("img", "txt"))
    context: Block = Stray("", (other,)) if last else other
    if last and mixer.context_out:
        mixer = replace(mixer, context_out=Stray("", (mixer.context_out,)))
    vectors = _listed("img_mod", width), _listed("txt_mod", width)
    formula = "qwen-image-edit" if c.get("zero_cond_t") else "qwen-image"
    return JointBlock("", width, *vectors, mixer, None, feed, context, formula)


def _listed(name: str, width: int) -> Modulation:
    """A modulation written as a list of activation and linear: `name`.1."""
    return Modulation(name, Linear("1", width, 6 * width, bias=True), 6)


@architecture("Flux2Transformer2DModel")
def flux2(c: Dimensions) -> Model:
    """FLUX without biases, gated MLPs, one modulation for all layers of a kind, fused projections in the second half."""
    width, rotary = c.num_attention_heads * c.attention_head_dim, sum(c.axes_dims_rope)
    inner, inputs = int(width * c.mlp_ratio), c.timestep_guidance_channels
    strength = embedded("guidance_embedder", inputs, width, bias=False) if c.guidance_embeds else None
    vector = sequence(embedded("timestep_embedder", inputs, width, bias=False), strength, name="time_guidance_embed")
    names = {"double_stream_modulation_img": 6, "double_stream_modulation_txt": 6, "single_stream_modulation": 3}
    shared = [replace(_unbiased(name, width, count), shared=True) for name, count in names.items()]
    mixer = replace(_plain_joint(c, width, "torch_rms_norm", rotary), formula="flux2")
    joint = JointBlock("", width, attention=mixer, mlp=_fused("ff", width, inner),
                       context_mlp=_fused("ff_context", width, inner), formula="flux2")  # fmt: skip
    out = c.patch_size**2 * (c.get("out_channels") or c.in_channels)
    return denoiser(
        c, vector, *shared, Linear("x_embedder", c.in_channels, width),
        Condition("", (Linear("context_embedder", c.joint_attention_dim, width),), tokens=True),
        AxialRotary("", tuple(c.axes_dims_rope), apart=True),
        repeat("transformer_blocks", c.num_layers, joint), OneRow(""),
        repeat("single_transformer_blocks", c.num_single_layers, _flux2_single(c, width, inner, rotary)),
        OneRow("", back=True), _unbiased("norm_out", width, 2), bare_norm(width), Modulate("", once=True),
        Linear("proj_out", width, out), text=512, image=packed(c), edits=True,
    )  # fmt: skip


def _fused(name: str, width: int, inner: int) -> Mlp:
    """linear_out(silu(a) * b), a and b from one matrix."""
    up, down = Linear("linear_in", width, 2 * inner), Linear("linear_out", inner, width)
    return Mlp(name, up, down, fused=True, width=inner, formula="flux2")


def _flux2_single(c: Dimensions, width: int, inner: int, rotary: int) -> SingleBlock:
    """Queries, keys, values and the MLP's first matrix in one; the attention's output and the MLP's through another."""
    q, k = qk_norms(("norm_q", "norm_k"), c.attention_head_dim, "torch_rms_norm")
    count, dim = heads(c)
    mixer = Attention("", count, count, dim, q_norm=q, k_norm=k, causal=False, rotary_dim=rotary)
    both = Linear("attn.to_qkv_mlp_proj", width, 3 * width + 2 * inner)
    inside = Sequence("attn", (mixer,))
    return SingleBlock("", width, None, inside, both, "swiglu", Linear("attn.to_out", width + inner, width), "flux2")


def _plain_joint(c: Dimensions, width: int, qk_norm: str, rotary: int = 0) -> JointAttention:
    """Joint attention without biases."""
    count, dim = heads(c)
    q, k, added_q, added_k = qk_norms(("norm_q", "norm_k", "norm_added_q", "norm_added_k"), dim, qk_norm)
    return JointAttention(
        "attn", count, count, dim, q=Linear("to_q", width, width), k=Linear("to_k", width, width),
        v=Linear("to_v", width, width), out=Linear("to_out.0", width, width), q_norm=q, k_norm=k, causal=False,
        rotary_dim=rotary, context=tuple(Linear(f"add_{x}_proj", width, width) for x in "qkv"),
        context_norms=tuple(norm for norm in (added_q, added_k) if norm), context_out=Linear("to_add_out", width, width),
    )  # fmt: skip


AURA_TOKENS = 256  # max_sequence_length of its pipeline
REGISTERS = 8  # learned tokens before the text's


@architecture("AuraFlowTransformer2DModel")
def auraflow(c: Dimensions) -> Model:
    """A few joint layers, then layers over all tokens in one row; no biases, gated MLPs, register tokens."""
    width, out = c.num_attention_heads * c.attention_head_dim, c.get("out_channels") or c.in_channels
    cut = Linear("proj", c.patch_size**2 * c.in_channels, width, bias=True)
    places = PickedPositions("pos_embed", (1, c.pos_embed_max_size, width))
    joint = JointBlock(
        "", width, _unbiased("norm1", width, 6), _unbiased("norm1_context", width, 6),
        replace(_plain_joint(c, width, "fp32_layer_norm"), formula="auraflow"), None,
        _gated("ff", width), _gated("ff_context", width), "auraflow",
    )  # fmt: skip
    context = Linear("context_embedder", c.joint_attention_dim, c.caption_projection_dim)
    return denoiser(
        c, sequence(Cut("", c.patch_size), cut, places, name="pos_embed"), embedded("time_step_proj", SINES, width),
        Condition("", (context, Registers("register_tokens", (1, REGISTERS, width))), tokens=True),
        repeat("joint_transformer_blocks", c.num_mmdit_layers, joint), OneRow("", named="both"),
        repeat("single_transformer_blocks", c.num_single_dit_layers, _aura_single(c, width)),
        OneRow("", back=True, named="both"),
        _unbiased("norm_out", width, 2), Modulate(""),
        Linear("proj_out", width, c.patch_size**2 * out), Unflatten("", c.patch_size), text=AURA_TOKENS,
    )  # fmt: skip


def _unbiased(name: str, width: int, chunks: int) -> Modulation:
    return Modulation(name, Linear("linear", width, chunks * width), chunks)


def _aura_single(c: Dimensions, width: int) -> ModulatedBlock:
    q, k = qk_norms(("norm_q", "norm_k"), c.attention_head_dim, "fp32_layer_norm")
    mixer = attention("attn", width, *heads(c), out_bias=False, q_norm=q, k_norm=k, formula="auraflow")
    norms = bare_norm(width), bare_norm(width)
    return ModulatedBlock("", _unbiased("norm1", width, 6), None, norms, mixer, None, _gated("ff", width), "auraflow")


def _gated(name: str, width: int) -> Mlp:
    """out_projection(silu(linear_1(x)) * linear_2(x)), two thirds of 4 times the width up to a multiple of 256."""
    inner = -(-int(8 * width / 3) // 256) * 256
    gate, up = (Linear(f"linear_{i}", width, inner) for i in (1, 2))
    return Mlp(name, up, Linear("out_projection", inner, width), gate, width=inner)
