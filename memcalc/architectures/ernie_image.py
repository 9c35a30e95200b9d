"""ERNIE-Image: a diffusion transformer of one row, whose layers share one modulation (Baidu 2026)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import attention, denoiser, embedded, latent
from memcalc.architectures.mmdit import qk_norms
from memcalc.blocks.base import repeat
from memcalc.blocks.basic import Conv, Linear, Norm
from memcalc.blocks.diffusion import Condition, ModulatedBlock, Modulation
from memcalc.blocks.image import Flatten
from memcalc.blocks.leading import LeadingEnd, LeadingRow
from memcalc.blocks.mlp import Mlp
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

TOKENS = 256  # a prompt as its language model enlarges it; the pipeline pads to the longest one


@architecture("ErnieImageTransformer2DModel")
def ernie_image(c: Dimensions) -> Model:
    """Patches and text in one row, six vectors for all layers, gated MLPs."""
    if not c.qk_layernorm:
        raise fault("model.qk_layernorm", "the class refuses attention without norms of queries and keys")
    width, patch = c.hidden_size, (c.patch_size, c.patch_size)
    text = Linear("text_proj", c.text_in_dim, width) if c.text_in_dim != width else None
    end = Modulation("final_norm", Linear("linear", width, 2 * width, bias=True), 2, silu=False)
    out = Linear("final_linear", width, c.patch_size**2 * c.out_channels, bias=True)
    return denoiser(
        c, Conv("x_embedder.proj", c.in_channels, width, patch, patch), Flatten("", copied=True),
        Condition("", (text,), tokens=True) if text else None, embedded("time_embedding", width, width),
        Modulation("adaLN_modulation", Linear("1", width, 6 * width, bias=True), 6, shared=True),
        LeadingRow("", width // c.num_attention_heads, c.text_in_dim), repeat("layers", c.num_layers, _layer(c)),
        LeadingEnd("", end, out, c.patch_size), text=TOKENS, image=latent(c, (64, 64)), scale=(16, 1),
    )  # fmt: skip


def _layer(c: Dimensions) -> ModulatedBlock:
    """x + gate · attention(norm(x) (1 + scale) + shift), then the same with a gated MLP, its sums in fp32."""
    width, inner, dim = c.hidden_size, c.ffn_hidden_size, c.hidden_size // c.num_attention_heads
    q, k = qk_norms(("norm_q", "norm_k"), dim, "torch_rms_norm")
    mixer = attention("self_attention", width, c.num_attention_heads, dim, out_bias=False, q_norm=q, k_norm=k,
                      rotary_dim=dim, formula="ernie-image")  # fmt: skip
    norms = tuple(Norm(name, width, "rms", "t5") for name in ("adaLN_sa_ln", "adaLN_mlp_ln"))
    feed = Mlp("mlp", Linear("up_proj", width, inner), Linear("linear_fc2", inner, width), Linear("gate_proj", width, inner),
               activation="gelu", width=inner, formula="ernie-image")  # fmt: skip
    return ModulatedBlock("", None, None, norms, mixer, None, feed, "ernie-image")
