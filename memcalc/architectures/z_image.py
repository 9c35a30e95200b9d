"""Z-Image: a diffusion transformer of one stream, of image and text in one row (Tongyi-MAI 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import attention, denoiser, latent
from memcalc.architectures.dit import SINES, bare_norm
from memcalc.architectures.mmdit import qk_norms
from memcalc.blocks.base import Block, stack
from memcalc.blocks.basic import Activation, Linear, Norm, Raw
from memcalc.blocks.diffusion import Condition, Modulate, ModulatedBlock, Modulation
from memcalc.blocks.image import Unflatten
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.streams import PaddedTokens, PatchRows, WholeRows
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

SHARED = 256  # channels of the time embedding (ADALN_EMBED_DIM)
TOKENS = 512  # max_sequence_length of its pipeline


@architecture("ZImageTransformer2DModel")
def z_image(c: Dimensions) -> Model:
    """Two layers refine the image and two the text; the others run over both in one row."""
    width, shared, patch = c.dim, min(c.dim, SHARED), c.all_patch_size[0]
    if len(c.all_patch_size) > 1 or c.all_f_patch_size[0] != 1 or c.get("siglip_feat_dim"):
        raise fault("model.all_patch_size", "several patch sizes, and SigLIP features beside the text, are not known")
    time = Linear("mlp.0", SINES, 1024, bias=True), Activation("", "silu"), Linear("mlp.2", 1024, shared, bias=True)
    axes, last = (tuple(c.axes_dims), tuple(c.axes_lens)), f"all_final_layer.{patch}-1"
    caption = (
        Norm("cap_embedder.0", c.cap_feat_dim, "rms", "t5"),
        Linear("cap_embedder.1", c.cap_feat_dim, width, bias=True),
    )
    image = Linear(f"all_x_embedder.{patch}-1", patch**2 * c.in_channels, width, bias=True)
    layer, plain = _layer(c, modulated=True), _layer(c, modulated=False)
    pads = [Raw(f"{name}_pad_token", (1, width)) for name in ("x", "cap")]
    return denoiser(
        c, Condition("t_embedder", time), *pads, PatchRows("", patch), PaddedTokens("", (image,), pads[0], *axes),
        stack("noise_refiner", [layer] * c.n_refiner_layers), PaddedTokens("", caption, pads[1], *axes, text=True),
        Condition("", (stack("context_refiner", [plain] * c.n_refiner_layers),), tokens=True), WholeRows(""),
        stack("layers", [layer] * c.n_layers),
        Modulation(last, Linear("adaLN_modulation.1", shared, width, bias=True), 1), bare_norm(width), Modulate(""),
        Linear(f"{last}.linear", width, patch**2 * c.in_channels, bias=True), WholeRows("", back=True),
        Unflatten("", patch), text=TOKENS, image=latent(c, (128, 128)),
    )  # fmt: skip


def _layer(c: Dimensions, *, modulated: bool) -> Block:
    """x + tanh(gate) · norm(attention(norm(x) (1 + scale))), then the same with a gated MLP."""
    width, dim = c.dim, c.dim // c.n_heads
    q, k = qk_norms(("norm_q", "norm_k"), dim, "rms_norm" if c.qk_norm else "")
    mixer = attention(
        "attention", width, c.n_heads, dim, out_bias=False, q_norm=q, k_norm=k, rotary_dim=dim, formula="z-image"
    )
    vectors = Linear("0", min(width, SHARED), 4 * width, bias=True)
    made = Modulation("adaLN_modulation", vectors, 4, silu=False) if modulated else None
    norms = tuple(
        Norm(name, width, "rms", "t5") for name in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2")
    )
    inner = int(width / 3 * 8)
    feed = Mlp("feed_forward", Linear("w3", width, inner), Linear("w2", inner, width), Linear("w1", width, inner),
               width=inner, formula="z-image")  # fmt: skip
    return ModulatedBlock("", made, None, norms, mixer, None, feed, "z-image")
