"""ControlNets: a copy of a denoiser's first layers that learns, and the denoiser itself, which does not (Zhang et al. 2023)."""

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


@dataclass(frozen=True, slots=True)
class ConditionTokens(Sequence):
    """An image in the latents' own form, `channels` of it or as many as they have, embedded and added to the stream."""

    channels: int = 0


@dataclass(frozen=True, slots=True)
class StreamControlNet(Sequence):
    """Layers of a diffusion transformer, each of whose outputs goes out through a linear layer: `outs`, of every stack.

    They are added behind the layers of `base`, where it is given; without, the mean of each is all there is to a loss.
    """

    outs: tuple[Block, ...] = ()
    base: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (*self.blocks, *self.outs, *((self.base,) if self.base else ()))


@dataclass(frozen=True, slots=True)
class SteeredTransformer(Controlled):
    """A transformer that does not learn, whose layers are added to; `recomputed` in checkpoints as the ControlNet's are."""

    recomputed: bool = False


@dataclass(frozen=True, slots=True)
class Steered(Block):
    """What the `number`th stack of a ControlNet yields is added behind the `layers` of the stack that follows.

    One output for several layers in a row: as many as there are layers to an output, rounded up, or (`even`) not rounded.
    Where a layer ends the text, nothing is added (`but_last`).
    """

    number: int = 0
    layers: int = 1
    even: bool = False
    but_last: bool = False
