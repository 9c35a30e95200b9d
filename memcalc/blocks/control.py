"""ControlNets: a copy of a UNet's way down that learns, and the UNet itself, which does not (Zhang et al. 2023)."""

from __future__ import annotations

from typing import ClassVar

from memcalc.blocks.base import Block, Sequence
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class ConditionImage(Sequence):
    """An image of `channels`, `scale` times as large as the latents, through convolutions, added to the stream."""

    channels: int = 3
    scale: int = 8


@dataclass(frozen=True, slots=True)
class ControlNet(Sequence):
    """The way down and the middle, whose kept states go out through convolutions of one pixel, `outs`, and so does the end.

    They are added to those of `base`, where it is given; without, the mean of each is all there is to a loss.
    """

    outs: tuple[Block, ...] = ()
    end: Block | None = None
    base: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        behind = (*self.outs, *((self.end,) if self.end else ()), *((self.base,) if self.base else ()))
        return (*self.blocks, *behind)


@dataclass(frozen=True, slots=True)
class Controlled(Sequence):
    """A model that does not learn, whose states are added to; its layers are not recomputed."""

    still: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Control(Block):
    """What a ControlNet yields is added: to the states kept on the way down, or to the `middle`."""

    middle: bool = False
