"""Lumina-Next: a Llama's layers over image tokens, with attention to the caption beside their own (Zhuo et al. 2024)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import attention, denoiser, embedded
from memcalc.architectures.dit import SINES, bare_norm
from memcalc.blocks.base import Stray, repeat, sequence
from memcalc.blocks.basic import Linear, Norm, Raw
from memcalc.blocks.diffusion import Cut, Modulate, ModulatedBlock, Modulation
from memcalc.blocks.image import Unflatten
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.streams import MeanCaption
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

TOKENS = 256  # max_sequence_length of its pipeline


@architecture("LuminaNextDiT2DModel")
def lumina_next(c: Dimensions) -> Model:
    """Patches, the time step plus the mean of the caption, layers with sandwich norms and tanh gates."""
    width, size, wide = c.hidden_size, c.patch_size, min(c.hidden_size, 1024)
    dim, out = width // c.num_attention_heads, size**2 * c.in_channels * (2 if c.learn_sigma else 1)
    if dim % 4:
        raise fault("model.hidden_size", "tables that rotate two axes want heads of a multiple of 4 channels")
    if c.qk_norm and not c.get("num_kv_heads"):
        raise fault("model.num_kv_heads", "the class makes the norm of its keys for so many heads, and has no default")
    caption = Norm("0", c.cross_attention_dim, "layer"), Linear("1", c.cross_attention_dim, wide, bias=True)
    time = sequence(
        embedded("timestep_embedder", SINES, wide),
        MeanCaption("caption_embedder", caption, dim),
        name="time_caption_embed",
    )
    return denoiser(
        c, Cut("", size), Linear("patch_embedder.proj", size**2 * c.in_channels, width, bias=True),
        Stray("", (Raw("pad_token", (width,)),)), time, repeat("layers", c.num_layers, _layer(c, wide)),
        Modulation("norm_out", Linear("linear_1", wide, width, bias=True), 1), bare_norm(width), Modulate(""),
        Linear("norm_out.linear_2", width, out, bias=True), Unflatten("", size), text=TOKENS,
    )  # fmt: skip


def _layer(c: Dimensions, wide: int) -> ModulatedBlock:
    """x + tanh(gate) · norm(out(attention to the image + tanh(learned gate) · attention to the caption)), then an MLP."""
    width = c.hidden_size
    names = {"norm1.norm": width, "norm2": width, "ffn_norm1": width, "ffn_norm2": width}
    norms = [Norm(name, size, "rms", "t5") for name, size in {**names, "norm1_context": c.cross_attention_dim}.items()]
    vectors = Modulation("norm1", Linear("linear", wide, 4 * width, bias=True), 4)
    own = replace(_attention(c, "attn1"), out=None)
    inner = int((c.get("ffn_dim_multiplier") or 1) * int(4 * 2 * width / 3))
    inner = -(-inner // c.multiple_of) * c.multiple_of
    gate, up = Linear("linear_1", width, inner), Linear("linear_3", width, inner)
    feed = Mlp("feed_forward", up, Linear("linear_2", inner, width), gate, width=inner, formula="lumina")
    table = Raw("gate", (c.num_attention_heads,))
    cross = _attention(c, "attn2", c.cross_attention_dim)
    return ModulatedBlock("", vectors, table, tuple(norms), own, cross, feed, "lumina-next")


def _attention(c: Dimensions, name: str, context: int = 0) -> Attention:
    """Grouped heads; queries and keys are normed across all heads."""
    count, dim = c.num_attention_heads, c.hidden_size // c.num_attention_heads
    few = c.get("num_kv_heads") or count
    q, k = (Norm(f"norm_{x}", size * dim, "layer") if c.qk_norm else None for x, size in (("q", count), ("k", few)))
    return attention(name, c.hidden_size, count, dim, context, kv_heads=few, out_bias=False, q_norm=q, k_norm=k,
                     rotary_dim=dim, formula="lumina-next")  # fmt: skip
