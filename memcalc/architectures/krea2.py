"""Krea 2: a diffusion transformer of one row, over text states of many layers of a language model (Krea 2026)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import attention, denoiser, embedded
from memcalc.architectures.mmdit import packed
from memcalc.blocks.base import Block, repeat, residual, sequence, stack
from memcalc.blocks.basic import Activation, Linear, Norm, Raw
from memcalc.blocks.diffusion import Condition, Modulate, ModulatedBlock, Modulation
from memcalc.blocks.fusing import FusedTexts, RowMask
from memcalc.blocks.joint import AxialRotary, OneRow
from memcalc.blocks.mlp import Mlp
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

TOKENS = 512  # max_sequence_length of its pipeline
GELU = "gelu_pytorch_tanh"


@architecture("Krea2Transformer2DModel")
def krea2(c: Dimensions) -> Model:
    """The text fused and projected, one row with the image, layers modulated by shared vectors and tables of their own."""
    if sum(c.axes_dims_rope) != c.attention_head_dim:
        raise fault("model.axes_dims_rope", "the channels of all axes are those of a head (attention_head_dim)")
    width = c.num_attention_heads * c.attention_head_dim
    vector = embedded("time_embed", c.timestep_embed_dim, width, act=GELU)
    shared = Modulation("", Linear("time_mod_proj", width, 6 * width, bias=True), 6, shared=True, activation=GELU)
    table = Raw("scale_shift_table", (6, width))
    layer = ModulatedBlock(
        "", None, table, (_norm("norm1", width), _norm("norm2", width)),
        _attention(width, c.num_attention_heads, c.num_key_value_heads, rotary=c.attention_head_dim), None,
        _feed(width, c.intermediate_size), "krea2",
    )  # fmt: skip
    end = sequence(
        Modulation("", None, 2, table=Raw("scale_shift_table", (2, width))), _norm("norm", width), Modulate("", once=True),
        Linear("linear", width, c.in_channels, bias=True), name="final_layer",
    )  # fmt: skip
    return denoiser(
        c, vector, shared, _fused(c), _text(c, width), Linear("img_in", c.in_channels, width, bias=True),
        AxialRotary("", tuple(c.axes_dims_rope)), RowMask(""), OneRow("", named="text"),
        repeat("transformer_blocks", c.num_layers, layer), OneRow("", back=True, named="text"), end,
        text=TOKENS, image=packed(c),
    )  # fmt: skip


def _norm(name: str, width: int) -> Norm:
    """In fp32, by one function, times 1 + weight."""
    return Norm(name, width, "rms", "krea2")


def _attention(width: int, count: int, kv_count: int, rotary: int = 0) -> Attention:
    """Grouped heads, the output times a sigmoid of a projection of its own."""
    dim = width // count
    return attention(
        "attn", width, count, dim, kv_heads=kv_count, out_bias=False, gate=Linear("to_gate", width, width),
        q_norm=_norm("norm_q", dim), k_norm=_norm("norm_k", dim), rotary_dim=rotary, formula="krea2",
    )  # fmt: skip


def _feed(width: int, inner: int) -> Mlp:
    gate, up = Linear("gate", width, inner), Linear("up", width, inner)
    return Mlp("ff", up, Linear("down", inner, width), gate, width=inner)


def _fused(c: Dimensions) -> FusedTexts:
    """Layers over the states of each token, a sum of them, layers over the tokens."""
    width = c.text_hidden_dim
    mixer = _attention(width, c.text_num_attention_heads, c.text_num_key_value_heads)
    layer: Block = sequence(
        residual(_norm("norm1", width), mixer), residual(_norm("norm2", width), _feed(width, c.text_intermediate_size))
    )
    first, second = (stack(name, [layer] * count, "never") for name, count in (
        ("layerwise_blocks", c.num_layerwise_text_blocks), ("refiner_blocks", c.num_refiner_text_blocks)))  # fmt: skip
    return FusedTexts("text_fusion", c.num_text_layers, width, first, Linear("projector", c.num_text_layers, 1), second)


def _text(c: Dimensions, width: int) -> Condition:
    first, second = Linear("linear_1", c.text_hidden_dim, width, bias=True), Linear("linear_2", width, width, bias=True)
    return Condition("txt_in", (_norm("norm", c.text_hidden_dim), first, Activation("", GELU), second), tokens=True)
