"""VACE: layers that read a second video and steer the others (Jiang et al. 2025)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.blocks.base import Block, stack
from memcalc.blocks.basic import Conv, Linear
from memcalc.blocks.video import ControlLayer, ControlLayers, ControlPatches

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


def controlled(c: Dimensions, block: Block, width: int, patch: tuple[int, ...]) -> tuple[Block, Block]:
    """The second video's patches; and its layers, as those of the first but for a projection behind, and before the first."""
    conv = Conv("vace_patch_embedding", c.vace_in_channels, width, patch, patch)
    ends = Linear("proj_in", width, width, bias=True), Linear("proj_out", width, width, bias=True)
    layers: list[Block] = [ControlLayer("", None if i else ends[0], block, ends[1]) for i in range(len(c.vace_layers))]
    apart = replace(stack("vace_blocks", layers), resizing=True)  # each goes to a place of its own
    return ControlPatches("", conv, c.vace_in_channels), ControlLayers("", apart, tuple(c.vace_layers))
