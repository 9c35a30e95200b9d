"""HiDream-I1: FLUX's layers with mixtures of experts, each layer shown the text by another layer of Llama (Cai et al. 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import attention, denoiser, embedded, latent
from memcalc.architectures.dit import bare_norm, heads, time_embedder
from memcalc.blocks.base import Stray, repeat, sequence
from memcalc.blocks.basic import Linear, Norm, Raw
from memcalc.blocks.diffusion import Modulate, ModulatedBlock, Modulation
from memcalc.blocks.hidream import LayerTexts, PatchOutput, PickedExperts, TextLayers, TurnTables
from memcalc.blocks.joint import JointAttention, JointBlock
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.streams import PatchRows

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

HIDREAM_TOKENS = 128  # max_sequence_length of its pipeline, of T5 and of Llama
LLAMA_LAYERS = 32  # whose states its pipeline hands over


@architecture("HiDreamImageTransformer2DModel")
def hidream(c: Dimensions) -> Model:
    """Joint layers of image and text, then layers of both in one row; the text's part of a layer is new to it."""
    width, patch = c.num_attention_heads * c.attention_head_dim, c.patch_size
    count, silent = c.num_layers + c.num_single_layers, bool(c.force_inference_output)
    wide, last = c.caption_channels[1], c.caption_channels[0]
    texts = tuple(
        Linear(f"caption_projection.{i}.linear", wide if i < count else last, width) for i in range(count + 1)
    )
    end = sequence(
        Modulation("adaLN_modulation", Linear("1", width, 2 * width, bias=True), 2), bare_norm(width), Modulate(""),
        Linear("linear", width, patch**2 * (c.get("out_channels") or c.in_channels), bias=True), name="final_layer",
    )  # fmt: skip
    return denoiser(
        c, PatchRows("", patch, c.max_resolution[0] * c.max_resolution[1] // patch**2),
        Linear("x_embedder.proj", patch**2 * c.in_channels, width, bias=True),
        sequence(time_embedder(width), name="t_embedder"),
        sequence(embedded("pooled_embedder", c.text_emb_dim, width, given=True), name="p_embedder"),
        LayerTexts("", texts, LLAMA_LAYERS, (wide, last)), TurnTables("", tuple(c.axes_dims_rope)),
        TextLayers(
            "", repeat("double_stream_blocks", c.num_layers, sequence(_joint(c, width), name="block")),
            repeat("single_stream_blocks", c.num_single_layers, sequence(_single(c, width), name="block")),
        ),
        end, PatchOutput("", patch, silent), text=HIDREAM_TOKENS, image=latent(c, (128, 128)),
    )  # fmt: skip


def _vectors(width: int, chunks: int) -> Modulation:
    return Modulation("adaLN_modulation", Linear("1", width, chunks * width, bias=True), chunks)


def _gated(name: str, width: int, hidden: int) -> Mlp:
    """w2(silu(w1(x)) * w3(x)), two thirds of `hidden` up to a multiple of 256."""
    inner = -(-int(2 * hidden / 3) // 256) * 256
    return Mlp(name, Linear("w3", width, inner), Linear("w2", inner, width), Linear("w1", width, inner), width=inner)


def _feed(c: Dimensions, width: int) -> Block:
    """A shared MLP of half the width beside the experts; those get no gradient where they run as in inference."""
    if not c.num_routed_experts:
        return _gated("ff_i", width, 4 * width)
    silent = bool(c.force_inference_output)
    experts = tuple(_gated(f"experts.{i}", width, 4 * width) for i in range(c.num_routed_experts))
    router: Block = Raw("gate.weight", (c.num_routed_experts, width))
    rest = (Stray("", experts), Stray("", (router,))) if silent else (sequence(*experts), router)
    return PickedExperts("ff_i", *rest, _gated("shared_experts", width, 2 * width), c.num_activated_experts, silent)


def _joint(c: Dimensions, width: int) -> JointBlock:
    (count, dim), norms = heads(c), [Norm(f"{x}_rms_norm{y}", width, "rms", "olmo2") for y in ("", "_t") for x in "qk"]
    mixer = JointAttention(
        "attn1", count, count, dim, q=Linear("to_q", width, width, bias=True), k=Linear("to_k", width, width, bias=True),
        v=Linear("to_v", width, width, bias=True), out=Linear("to_out", width, width, bias=True), causal=False,
        q_norm=norms[0], k_norm=norms[1], context=tuple(Linear(f"to_{x}_t", width, width, bias=True) for x in "qkv"),
        context_norms=tuple(norms[2:]), context_out=Linear("to_out_t", width, width, bias=True), formula="hidream",
    )  # fmt: skip
    return JointBlock(
        "", width, _vectors(width, 12), None, mixer, None, _feed(c, width), _gated("ff_t", width, 4 * width), "hidream"
    )


def _single(c: Dimensions, width: int) -> ModulatedBlock:
    q, k = (Norm(f"{x}_rms_norm", width, "rms", "olmo2") for x in "qk")
    mixer = attention("attn1", width, *heads(c), bias=True, q_norm=q, k_norm=k, out="to_out", formula="hidream")
    norms = bare_norm(width), bare_norm(width)
    return ModulatedBlock("", _vectors(width, 6), None, norms, mixer, None, _feed(c, width), "hidream")
