"""ControlNetModel: the way down of a UNet as a copy that learns (Zhang et al. 2023), as train_controlnet.py trains it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from memcalc.architectures import architecture, model_of
from memcalc.architectures.diffusers import conv3, denoiser, latent
from memcalc.architectures.unet import down_levels, levels, middle
from memcalc.architectures.unet_conditions import conditions
from memcalc.blocks.base import Block, Sequence, sequence
from memcalc.blocks.basic import Activation
from memcalc.blocks.control import ConditionImage, Control, Controlled, ControlNet
from memcalc.blocks.image import Keep

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

ALONE = (
    "the ControlNet alone: the UNet that stands still beside it in training is not in this; give its config as `unet`"
)
CLIP_TOKENS = 77


@architecture("ControlNetModel")
def controlnet(c: Dimensions) -> Model:
    """A UNet's way down and middle, and the image that controls it; with `unet`, the whole UNet that stands still."""
    down, widths = levels(c), c.block_out_channels
    base = model_of(c.unet) if c.gives("unet") else None
    net = ControlNet(
        "", (*(block for block in conditions(c) if block), conv3("conv_in", c.in_channels, widths[0]), _condition(c), Keep(""),
             down_levels(c, down), *_given(middle(c, down[-1]))),
        _outs(c), conv3("controlnet_mid_block", widths[-1], widths[-1], 1), _controlled(base.body) if base else None,
    )  # fmt: skip
    image = latent(c, base.image[1:] if base and base.image else (64, 64))
    made = denoiser(c, net, text=CLIP_TOKENS, image=image)
    return made if base else replace(made, notes=(ALONE,))


def _given(*blocks: Block | None) -> tuple[Block, ...]:
    return tuple(block for block in blocks if block)


def _condition(c: Dimensions) -> ConditionImage:
    """Convolutions, each second one halving the map, to the latents' size."""
    widths = c.conditioning_embedding_out_channels
    blocks: list[Block] = [conv3("conv_in", c.conditioning_channels, widths[0]), Activation("", "silu")]
    for i, (before, behind) in enumerate(pairwise(widths)):
        first, second = conv3(f"blocks.{2 * i}", before, before), conv3(f"blocks.{2 * i + 1}", before, behind, 3, 2)
        blocks += [first, Activation("", "silu"), second, Activation("", "silu")]
    last = conv3("conv_out", widths[-1], c.block_out_channels[0])
    return ConditionImage("controlnet_cond_embedding", (*blocks, last), c.conditioning_channels, 2 ** (len(widths) - 1))


def _outs(c: Dimensions) -> tuple[Block, ...]:
    """A convolution of one pixel for every state that is kept."""
    found = [c.block_out_channels[0]]
    for i, level in enumerate(levels(c)):
        found += [level.width] * (level.layers + (i < len(c.block_out_channels) - 1))
    return tuple(conv3(f"controlnet_down_blocks.{i}", width, width, 1) for i, width in enumerate(found))


def _controlled(body: Block) -> Sequence:
    """The UNet, with what comes from the ControlNet added behind its way down and its middle."""
    blocks: list[Block] = []
    for block in body.parts():
        blocks += [Control("", middle=True)] if block.name == "up_blocks" else []
        blocks += [block, *([Control("")] if block.name == "down_blocks" else [])]
    return Controlled("unet", sequence(*blocks).blocks)
