"""AutoencoderKL: images to latents and back by residual convolutions (Rombach et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import conv3, group_norm, latent, map_attention, res_block
from memcalc.blocks.base import Block, Recomputed, Sequence, sequence, stack
from memcalc.blocks.basic import Activation
from memcalc.blocks.diffusion import Sample
from memcalc.blocks.image import Pad, Resample
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.blocks.unet import ResBlock
    from memcalc.dimensions import Dimensions


@architecture("AutoencoderKL")
def autoencoder(c: Dimensions) -> Model:
    """Encoder to mean and variance of a latent, a sample of it, decoder."""
    z = c.latent_channels
    into = conv3("quant_conv", 2 * z, 2 * z, 1) if c.use_quant_conv else None
    out = conv3("post_quant_conv", z, z, 1) if c.use_post_quant_conv else None
    return Model(sequence(_encoder(c), into, Sample(""), out, _decoder(c)), "diffusion", image=latent(c))


def _encoder(c: Dimensions) -> Sequence:
    """Levels of residual blocks, each but the last halving the map, a middle, 2 * latent_channels out."""
    widths = c.block_out_channels
    befores = [widths[0], *widths]
    levels: list[Block] = [
        _down(c, kind, before, width, last=i == len(widths) - 1)
        for i, (kind, before, width) in enumerate(zip(c.down_block_types, befores, widths, strict=False))
    ]
    return sequence(
        conv3("conv_in", c.in_channels, widths[0]), stack("down_blocks", levels), _middle(c),
        group_norm("conv_norm_out", widths[-1], c.norm_num_groups), Activation("", "silu"),
        conv3("conv_out", widths[-1], 2 * c.latent_channels), name="encoder",
    )  # fmt: skip


def _decoder(c: Dimensions) -> Sequence:
    """A middle, levels of residual blocks, each but the last doubling the map."""
    widths = c.block_out_channels[::-1]
    befores = [widths[0], *widths]
    levels: list[Block] = [
        _up(c, kind, before, width, last=i == len(widths) - 1)
        for i, (kind, before, width) in enumerate(zip(c.up_block_types, befores, widths, strict=False))
    ]
    return sequence(
        conv3("conv_in", c.latent_channels, widths[0]), _middle(c), stack("up_blocks", levels),
        group_norm("conv_norm_out", widths[-1], c.norm_num_groups), Activation("", "silu"),
        conv3("conv_out", widths[-1], c.out_channels), name="decoder",
    )  # fmt: skip


def _res(c: Dimensions, name: str, before: int, width: int) -> ResBlock:
    return res_block(name, before, width, groups=c.norm_num_groups, act=c.act_fn)


def _layers(c: Dimensions, kind: str, before: int, width: int, count: int) -> list[Block]:
    """Residual blocks, each followed by an attention over all pixels where the block's type has one."""
    known = {"DownEncoderBlock2D", "UpDecoderBlock2D", "AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D"}
    if kind not in known:
        raise fault("model.down_block_types", f"the block {kind!r} is not known")
    blocks: list[Block] = []
    for i in range(count):
        blocks.append(_res(c, f"resnets.{i}", before if i == 0 else width, width))
        if kind.startswith("Attn"):
            blocks.append(map_attention(f"attentions.{i}", width, 1, c.norm_num_groups))
    return blocks


def _down(c: Dimensions, kind: str, before: int, width: int, *, last: bool) -> Sequence:
    shrink = () if last else (Pad("", 1), conv3("downsamplers.0.conv", width, width, 3, 2, 0))
    return sequence(*_layers(c, kind, before, width, c.layers_per_block), *shrink)


def _up(c: Dimensions, kind: str, before: int, width: int, *, last: bool) -> Sequence:
    grow = () if last else (Resample(""), conv3("upsamplers.0.conv", width, width))
    return sequence(*_layers(c, kind, before, width, c.layers_per_block + 1), *grow)


def _middle(c: Dimensions) -> Sequence:
    """A residual block, one head of attention over all pixels, a residual block."""
    width = c.block_out_channels[-1]
    attends = map_attention("attentions.0", width, 1, c.norm_num_groups) if c.mid_block_add_attention else None
    blocks = (_res(c, "resnets.0", width, width), attends, _res(c, "resnets.1", width, width))
    return Recomputed("mid_block", tuple(block for block in blocks if block))
