"""UNet2DModel: a UNet that reads no text, of pixels or latents (Ho et al. 2020), as train_unconditional.py trains it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import conv3, denoiser, group_norm, map_attention
from memcalc.architectures.unet import Level, down_level, residual_block, up_level, upwards
from memcalc.architectures.unet_conditions import class_embedding, time_embedding
from memcalc.blocks.base import Recomputed, Sequence, sequence, stack
from memcalc.blocks.basic import Activation
from memcalc.blocks.image import Keep
from memcalc.blocks.unet import Divided
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("UNet2DModel")
def unet2d(c: Dimensions) -> Model:
    """conv_in, levels down (each state kept), a middle, levels up (each kept state joined), conv_out."""
    widths, first = c.block_out_channels, c.block_out_channels[0]
    fourier = c.time_embedding_type == "fourier"
    wide = c.get("time_embedding_dim") or 4 * first
    inputs = 2 * first if fourier else first
    c = c.but(time_embedding_dim=wide)
    down, up = _levels(c, c.down_block_types, widths, 0), _levels(c, c.up_block_types, widths[::-1], 1)
    return denoiser(
        c, time_embedding(c, inputs, wide, first if fourier else 0), class_embedding(c, inputs, wide),
        conv3("conv_in", c.in_channels, first), Keep(""),
        stack("down_blocks", [down_level(c, level, before, last=i == len(down) - 1)
                              for i, (level, before) in enumerate(zip(down, [first, *widths], strict=False))], "never"),
        _middle(c),
        stack("up_blocks", [up_level(c, level, before, skip, last=i == len(up) - 1)
                            for i, (level, before, skip) in enumerate(upwards(up, widths))], "never"),
        group_norm("conv_norm_out", first, c.norm_num_groups), Activation("", "silu"),
        conv3("conv_out", first, c.out_channels), Divided("") if fourier else None, scale=(1, 1),
    )  # fmt: skip


def _levels(c: Dimensions, kinds: list[str], widths: list[int], more: int) -> list[Level]:
    """Levels of residual blocks, some with attention of every pixel to all; those up have a layer more."""
    known = (
        "DownBlock2D",
        "AttnDownBlock2D",
        "ResnetDownsampleBlock2D",
        "UpBlock2D",
        "AttnUpBlock2D",
        "ResnetUpsampleBlock2D",
    )
    for kind in kinds:
        if kind not in known:
            raise fault("model.down_block_types", f"the block {kind!r} is not known")
    layers = c.layers_per_block + more
    return [
        Level(kind, width, layers, c.get("attention_head_dim") or width, 0, (1,) * layers, only_cross=False)
        for kind, width in zip(kinds, widths, strict=False)
    ]


def _middle(c: Dimensions) -> Sequence | None:
    """UNetMidBlock2D: a residual block, attention, a residual block."""
    width = c.block_out_channels[-1]
    if c.get("mid_block_type") is None:
        return None
    groups = c.get("attn_norm_num_groups") or (c.norm_num_groups if c.resnet_time_scale_shift == "default" else 0)
    heads = width // (c.get("attention_head_dim") or width)
    attends = map_attention("attentions.0", width, heads, groups) if c.add_attention else None
    again = Recomputed("", (residual_block(c, "resnets.1", width, width),))
    return sequence(residual_block(c, "resnets.0", width, width), attends, again, name="mid_block")
