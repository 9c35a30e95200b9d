"""Time series: channels of numbers, cut into patches of consecutive ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.base import Block
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.blocks.basic import Linear


@dataclass(frozen=True, slots=True)
class SeriesPatches(Block):
    """[batch, steps, channels], scaled, to [batch · channels, patches, length]: every `stride` steps a patch of `length`.

    `masked` where some patches are blanked out. `embed` projects them.
    """

    length: int = 1
    stride: int = 1
    scaled: bool = True
    masked: bool = False
    embed: Linear | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (self.embed,) if self.embed else ()


@dataclass(frozen=True, slots=True)
class JoinChannels(Block):
    """[batch · channels, width] seen as [batch, channels · width]."""

    channels: int = 1
