"""What a UNet of videos adds to one of images: layers over time behind those of every frame, mixed by a learned share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.base import Block, Param, Stack, given
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.blocks.unet import ResBlock

MIX = "time_mixer.mix_factor"  # the share of every frame's own


@dataclass(frozen=True, slots=True)
class FramesApart(Block):
    """Frames as images of the batch; the conditioning vector and the context, which are a video's, for each of them."""


@dataclass(frozen=True, slots=True)
class FramesTogether(Block):
    """Images as frames of videos again."""


@dataclass(frozen=True, slots=True)
class FramesRes(Block):
    """A residual block of every frame, one over time behind it, and a mixture of both."""

    spatial: Block | None = None
    temporal: ResBlock | None = None

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param(MIX, (1,)),)

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.spatial, self.temporal)


@dataclass(frozen=True, slots=True)
class FramesTransformer(Block):
    """x + out(layers(in(norm(x)))): each layer of a frame's pixels is followed by one of a pixel's frames, and both mixed.

    `places` makes the frames' positions.
    """

    norm: Block | None = None
    into: Block | None = None
    spatial: Stack | None = None
    temporal: Stack | None = None
    places: Block | None = None
    out: Block | None = None
    width: int = 320

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param(MIX, (1,)),)

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.norm, self.into, self.spatial, self.temporal, self.places, self.out)


@dataclass(frozen=True, slots=True)
class TimeBlock(Block):
    """Branches x + f(norm(x)) over the frames of every pixel (TemporalBasicTransformerBlock)."""

    branches: tuple[Block, ...] = ()

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return self.branches
