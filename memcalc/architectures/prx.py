"""PRX: image tokens that attend to themselves and to a text that stays as it is (Photoroom 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import denoiser, latent
from memcalc.architectures.dit import SINES, bare_norm
from memcalc.architectures.mmdit import qk_norms
from memcalc.blocks.base import Block, given, repeat, sequence
from memcalc.blocks.basic import Activation, Linear
from memcalc.blocks.diffusion import Condition, Cut, Modulate, ModulatedBlock, Modulation
from memcalc.blocks.hidream import PatchTurns
from memcalc.blocks.image import Unflatten
from memcalc.blocks.joint import JointAttention
from memcalc.blocks.mlp import Mlp
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

TOKENS = 256  # what its tokenizer pads a prompt to


@architecture("PRXTransformer2DModel")
def prx(c: Dimensions) -> Model:
    """Patches, the text projected once, layers modulated by the time step (and the resolution)."""
    width, size, axes = c.hidden_size, c.patch_size, tuple(c.get("axes_dim") or (32, 32))
    if width % c.num_heads or sum(axes) != width // c.num_heads:
        raise fault("model.axes_dim", "the channels of both axes are those of a head (hidden_size / num_heads)")
    end = Modulation("adaLN_modulation", Linear("1", width, 2 * width, bias=True), 2)
    last = Linear("linear", width, size**2 * c.in_channels, bias=True)
    return denoiser(
        c, Condition("", (Linear("txt_in", c.context_in_dim, width, bias=True),), tokens=True), Cut("", size),
        *_patches(c, width), PatchTurns("", axes), _embedder("time_in", width),
        _embedder("resolution_embedder.mlp", width) if c.resolution_embeds else None,
        repeat("blocks", c.depth, _layer(c, width)),
        sequence(end, bare_norm(width), Modulate("", once=True), last, name="final_layer"), Unflatten("", size),
        text=TOKENS, image=latent(c, (64, 64)),
    )  # fmt: skip


def _patches(c: Dimensions, width: int) -> tuple[Block, ...]:
    """One matrix, or (of pixels) two with a bottleneck between."""
    inputs, narrow = c.patch_size**2 * c.in_channels, c.get("bottleneck_size")
    if narrow is None:
        return (Linear("img_in", inputs, width, bias=True),)
    return given(Linear("img_in.0", inputs, narrow, bias=True), Linear("img_in.1", narrow, width, bias=True))


def _embedder(name: str, width: int) -> Condition:
    """MLPEmbedder: sinusoids through two linear layers."""
    first, second = Linear("in_layer", SINES, width, bias=True), Linear("out_layer", width, width, bias=True)
    return Condition(name, (first, Activation("", "silu"), second))


def _layer(c: Dimensions, width: int) -> ModulatedBlock:
    """x + gate · attention((1 + scale) norm(x) + shift), then the same with a gated MLP."""
    count, inner = c.num_heads, int(width * c.mlp_ratio)
    q, k, added = qk_norms(("norm_q", "norm_k", "norm_added_k"), width // count, "rms_norm")
    mixer = JointAttention(
        "attention", count, count, width // count, q=Linear("img_qkv_proj", width, 3 * width), q_norm=q, k_norm=k,
        causal=False, rotary_dim=width // count, context=(Linear("txt_kv_proj", width, 2 * width),),
        context_norms=given(added), out=Linear("to_out.0", width, width), formula="prx",
    )  # fmt: skip
    gate, up = Linear("gate_proj", width, inner), Linear("up_proj", width, inner)
    feed = Mlp("", up, Linear("down_proj", inner, width), gate, activation="gelu_pytorch_tanh", width=inner)
    vectors = Modulation("modulation", Linear("lin", width, 6 * width, bias=True), 6)
    return ModulatedBlock("", vectors, None, (bare_norm(width), bare_norm(width)), mixer, None, feed, "prx")
